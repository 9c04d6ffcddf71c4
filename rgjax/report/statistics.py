"""Intervals and tests of scores over runs, and of ranks over data sets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit
from scipy.stats import rankdata, studentized_range, wilcoxon

_PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Estimate:
    """A mean of n values, as a share; no interval or p-value for one or equal values.

    Attributes:
        mean: of the values.
        interval: that contains the expected mean in 95 % of the cases.
        p: two-sided p-value of the hypothesis that the expected mean is 0.
        n: number of values.
        p_holm: p, adjusted for the family of comparisons that the estimate belongs to.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    n: int
    p_holm: float | None = None

    @property
    def differs(self) -> bool:
        """Whether there is evidence of a difference from 0, at the level of 5 %."""
        return self.p_holm is not None and self.p_holm < 0.05

    def within(self, low: float, high: float) -> "Estimate":
        """With the interval cut to the values that are possible."""
        return replace(self, interval=self.interval and (max(low, self.interval[0]), min(high, self.interval[1])))

    def __neg__(self) -> "Estimate":
        interval = self.interval and (-self.interval[1], -self.interval[0])
        return replace(self, mean=-self.mean, interval=interval)

    def __str__(self) -> str:
        bounds = "" if self.interval is None else " [{:+.1f}, {:+.1f}]".format(*(100 * x for x in self.interval))
        return f"{100 * self.mean:+.1f}{bounds}"


def estimate_mean(values: Sequence[float], overlap: float = 0.0) -> Estimate:
    """Student's t over runs, corrected where the runs share examples.

    Scores on splits of one data set are correlated, because their training sets overlap. The corrected resampled t-test
    (Nadeau & Bengio 2003, Machine Learning 52, 239-281) takes the variance of their mean as s^2 (1/n + n_test/n_train)
    instead of s^2 / n; Bouckaert & Frank (2004) recommend it for repeated folds too.

    Args:
        values: a score, or a paired difference, of each split.
        overlap: n_test / n_train; 0 for independent values, such as seeds on one split.
    """
    n, mean = len(values), float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if deviation < 1e-12:
        return Estimate(mean, None, None, n)
    error = deviation * np.sqrt(1 / n + overlap)
    half = float(stdtrit(n - 1, 0.975) * error)
    return Estimate(mean, (mean - half, mean + half), float(2 * stdtr(n - 1, -abs(mean) / error)), n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that hold jointly (Holm 1979); None stays None.

    The i-th smallest of m is multiplied by m - i + 1, and is at least as large as those before it.
    """
    defined = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(defined):
        largest = max(largest, min(1.0, p * (len(defined) - rank)))
        adjusted[i] = largest
    return adjusted


# Several data sets


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of k methods over N data sets; 1 is the best.

    Attributes:
        means: of each method.
        p: of the hypothesis that all methods are equal.
        critical_difference: mean ranks that differ by less are not distinguishable.
        num_datasets: N.
    """

    means: tuple[float, ...]
    p: float
    critical_difference: float
    num_datasets: int

    def cliques(self) -> Iterator[list[int]]:
        """The largest sets of methods that are not distinguishable, best first."""
        order = sorted(range(len(self.means)), key=lambda i: self.means[i])
        last = 0
        for start, first in enumerate(order):
            members = [i for i in order[start:] if self.means[i] - self.means[first] < self.critical_difference]
            if len(members) > 1 and start + len(members) > last:
                yield members
            last = max(last, start + len(members))


def rank_methods(scores: Float[np.ndarray, "N k"]) -> Ranks:
    """Compare k methods over N data sets (Demsar 2006, JMLR 7, 1-30).

    Friedman's test for k > 2, whose p-value comes from permutations of each data set's ranks, because its
    approximations need more than 10 data sets; Wilcoxon's signed-rank test for two methods. The critical difference is
    Nemenyi's, q sqrt(k (k + 1) / 6 N), at the level of 5 %.
    """
    num_datasets, k = scores.shape
    ranks = rankdata(-scores, axis=1)
    q = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)
    critical = float(q * np.sqrt(k * (k + 1) / (6 * num_datasets)))
    p = _wilcoxon(scores[:, 0] - scores[:, 1]) if k == 2 else _friedman(ranks)
    return Ranks(tuple(ranks.mean(axis=0).tolist()), p, critical, num_datasets)


def _wilcoxon(differences: np.ndarray) -> float:
    if not differences.any():
        return 1.0
    _, p = np.array(wilcoxon(differences, zero_method="zsplit"), float)
    return float(p)


def _friedman(ranks: np.ndarray) -> float:
    """The share of permutations whose mean ranks differ at least as much."""
    rng, spread = np.random.default_rng(0), ranks.sum(axis=0).var()
    permuted = rng.permuted(np.broadcast_to(ranks, (_PERMUTATIONS, *ranks.shape)), axis=2)
    larger = (permuted.sum(axis=1).var(axis=1) >= spread - 1e-9).sum()
    return float((1 + larger) / (1 + _PERMUTATIONS))
