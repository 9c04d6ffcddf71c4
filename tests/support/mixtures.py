"""Gaussian mixtures whose posteriors, and so whose best decisions, are known."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Classes with means drawn from N(0, spread²) and unit covariance in `dimensions`.

    Attributes:
        classes: their number.
        ratio: of the largest prevalence to the smallest one; they fall geometrically.
        dimensions: of the examples.
        spread: of the means.
        temperature: logits are the log-posteriors times this.
        bias: standard deviation of what is added to the logits of each class.
        noise: standard deviation of what is added to each logit.
        slopes: logits of the first to the last class are multiplied by 1 - slopes to 1 + slopes.
    """

    classes: int = 2
    ratio: float = 20
    dimensions: int = 8
    spread: float = 0.6
    temperature: float = 2.0
    bias: float = 0.0
    noise: float = 0.0
    slopes: float = 0.0

    @property
    def prevalences(self) -> np.ndarray:
        shares = self.ratio ** -np.linspace(0, 1, self.classes)
        return shares / shares.sum()

    def draw(self, seed: int, *sizes: int, balanced: bool = False) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Samples of these sizes: labels [n], logits [n, C] and what BA's Bayes rule takes the argmax of [n, C].

        `balanced`: the last sample has as many examples of each class, for the BA of the population.
        """
        rng, names = np.random.default_rng(seed), np.arange(self.classes)
        means = rng.normal(size=(self.classes, self.dimensions)) * self.spread
        biases = rng.normal(size=self.classes) * self.bias
        samples = []
        for n in sizes:
            labels = rng.choice(names, n, p=self.prevalences)
            if balanced and len(samples) == len(sizes) - 1:
                labels = np.repeat(names, n // self.classes)
            x = means[labels] + rng.normal(size=(len(labels), self.dimensions))
            likelihoods = x @ means.T - (means**2).sum(axis=1) / 2
            logits = self.temperature * (likelihoods + np.log(self.prevalences)) + biases
            logits = logits * np.linspace(1 - self.slopes, 1 + self.slopes, self.classes)
            samples.append((labels, logits + self.noise * rng.normal(size=logits.shape), likelihoods))
        return samples
