"""Test sets with scores of known distributions, whose population AP is known from integration."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

QUANTILES = (np.arange(50_000) + 0.5) / 50_000  # of the positives, for integration


def precision(tpr: np.ndarray, fpr: np.ndarray, prevalence: float) -> np.ndarray:
    hits = prevalence * tpr
    return hits / np.maximum(hits + (1 - prevalence) * fpr, 1e-300)


@dataclass(frozen=True)
class Binormal:
    """Negatives are N(0, 1), positives N(d, sigma²), rounded up to multiples of `step`."""

    sigma: float = 1.0
    step: float = 0.0
    limits = (-4.0, 15.0)  # of d

    def positives(self, d: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return self._rounded(rng.normal(d, self.sigma, shape))

    def negatives(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return self._rounded(rng.normal(size=shape))

    def _rounded(self, scores: np.ndarray) -> np.ndarray:
        return np.ceil(scores / self.step) if self.step else scores

    def ap(self, d: float, prevalence: float) -> float:
        if self.step:
            edges = np.arange(-10, 25, self.step)[::-1]
            tpr = ndtr((d - edges) / self.sigma)
            return float((np.diff(tpr, prepend=0) * precision(tpr, ndtr(-edges), prevalence)).sum())
        thresholds = d + self.sigma * ndtri(QUANTILES)
        return float(precision(1 - QUANTILES, ndtr(-thresholds), prevalence).mean())


@dataclass(frozen=True)
class Mixture:
    """A share of the positives ranks above all negatives, the others rank like negatives."""

    limits = (0.0, 1.0)  # of the share

    def positives(self, share: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.random(shape) + (rng.random(shape) < share)

    def negatives(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.random(shape)

    def ap(self, share: float, prevalence: float) -> float:
        return float(share + (1 - share) * precision(share + (1 - share) * QUANTILES, QUANTILES, prevalence).mean())


@dataclass(frozen=True)
class Power:
    """Negatives are uniform, positives U^(1 / theta): they rank ever better with no best part of their own."""

    limits = (0.01, 1e5)  # of theta

    def positives(self, theta: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.log(rng.random(shape)) / theta

    def negatives(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.log(rng.random(shape))

    def ap(self, theta: float, prevalence: float) -> float:
        fpr = -np.expm1(np.log(QUANTILES) / theta)
        return float(precision(1 - QUANTILES, fpr, prevalence).mean())


@dataclass(frozen=True)
class HeavyTails:
    """Student's t with 3 degrees of freedom; positives are shifted by d."""

    limits = (-4.0, 200.0)  # of d

    def positives(self, d: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.standard_t(3, shape) + d

    def negatives(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.standard_t(3, shape)

    def ap(self, d: float, prevalence: float) -> float:
        fpr = stdtr(3, -(d + stdtrit(3, QUANTILES)))
        return float(precision(1 - QUANTILES, fpr, prevalence).mean())


Model = Binormal | Mixture | Power | HeavyTails
MODELS: dict[str, Model] = {
    "equal variances": Binormal(),
    "wider positives": Binormal(1.5),
    "narrower positives": Binormal(0.7),
    "rounded scores": Binormal(step=0.5),
    "mixture": Mixture(),
}


# They played no part in the choice of the method.
HELD_OUT: dict[str, Model] = {"power of a uniform": Power(), "Student's t, 3 df": HeavyTails()}


@cache
def parameter(model: Model, ap: float, prevalence: float) -> float:
    """The parameter with which the model has this AP."""
    return float(brentq(lambda value: model.ap(value, prevalence) - ap, *model.limits, xtol=1e-9))


def draw(
    model: Model, ap: float, prevalence: float, positives: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, count] of test sets, and which examples are positives [N]."""
    negatives, value = round(positives * (1 / prevalence - 1)), parameter(model, ap, prevalence)
    scores = [model.positives(value, (positives, count), rng), model.negatives((negatives, count), rng)]
    return np.concatenate(scores), np.arange(positives + negatives) < positives


def coverage(intervals: np.ndarray, truth: float) -> tuple[float, float]:
    """Share of the intervals [R, 2] that contain the truth, and their mean width."""
    low, high = intervals.T
    return float(((low <= truth + 1e-9) & (truth - 1e-9 <= high)).mean()), float((high - low).mean())
