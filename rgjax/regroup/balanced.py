"""Balanced K-means (Bradley, Bennett & Demiriz 2000): clusters of equal sizes, or of a least size.

In each iteration the points are assigned at the least sum of squared distances that the sizes allow. The devices find
prices that are nearly right (`prices`); the host settles in float64, exactly, the points that these leave in doubt
(`assignment`). The next iteration begins with the prices of the last one.
"""

import numpy as np

from rgjax.regroup.assignment import Assignment, assign
from rgjax.regroup.kmeans import KMeansResult, checked, kmeans
from rgjax.regroup.prices import Market, Offers, Target

COARSE = 8  # the first prices are found on one of so many points
FINE = 16  # a start from known prices is so much sharper
DOUBTFUL = 10  # points for each cluster, and for each that is in a wrong one


def balanced_kmeans(
    x: np.ndarray,
    k: int,
    *,
    seed: int = 0,
    n_init: int = 10,
    min_size: int = 0,
    max_iter: int = 300,
    tol: float = 1e-4,
    init: np.ndarray | None = None,
    pad_to: tuple[int, int] | None = None,
) -> KMeansResult:
    """Cluster `x` [N, D] into `k` groups of N / k points, rounded up or down, or of at least `min_size` points.

    The first centres are `init` [k, D], else those of plain K-means, the best of `n_init` starts. The centres that are
    returned are their members' means; no iteration makes the inertia larger. Calls with an equal `pad_to` = (points,
    centres) and D run the same compiled programs. Each process of a multi-process run computes for itself.
    Raises ValueError for sizes that cannot be, and for values not finite.
    """
    x = checked(x, k)
    if k * min_size > len(x):
        raise ValueError(f"{k} clusters of at least {min_size} points, of {len(x)} points")
    if init is None:
        init = kmeans(x, k, seed=seed, n_init=n_init, pad_to=pad_to).centers
    mean = x.mean(axis=0)
    x, centers = x - mean, np.float64(init) - mean
    balancer, tolerance = Balancer(x, k, min_size, pad_to), tol * x.var(axis=0).mean()
    labels, prices, sums, n_iter, done = np.full(len(x), -1), None, np.zeros(centers.shape), 0, False
    while not done and n_iter < max_iter:
        n_iter += 1
        before, (labels, prices, _) = labels, balancer.assign(centers, prices)
        moved = np.flatnonzero(labels != before)
        _carry(sums, x[moved], before[moved], labels[moved])
        means = sums / np.bincount(labels, minlength=k)[:, None]
        shift = ((means - centers) ** 2).sum()
        centers, done = means, not len(moved) or shift <= tolerance
    inertia = np.square(x).sum(dtype=np.float64) - (np.square(centers).sum(axis=1) * np.bincount(labels)).sum()
    return KMeansResult(labels, (centers + mean).astype(np.float32), float(inertia), n_iter)


def _carry(sums: np.ndarray, points: np.ndarray, origins: np.ndarray, goals: np.ndarray) -> None:
    """Take the points [M, D] from the sums [k, D] of their clusters of origin, -1 for none, to those of their goals."""
    for cluster in range(len(sums)):
        for members, sign in ((goals, 1), (origins, -1)):
            sums[cluster] += sign * points[members == cluster].sum(axis=0, dtype=np.float64)


class Balancer:
    """Assigns points x [N, D] float32, of mean zero, to clusters of N / k points, rounded up or down, or of at least
    `min_size`."""

    def __init__(self, x: np.ndarray, k: int, min_size: int = 0, pad_to: tuple[int, int] | None = None):
        n = len(x)
        self._x, self._market = x, Market(x, pad_to or (n, k))
        self._lower = np.full(k, min_size or n // k)
        self._upper = np.full(k, n if min_size else -(-n // k))
        self._target = Target(min_size or n / k, at_least=min_size > 0)
        self._smoothing: float | None = None

    def assign(self, centers: np.ndarray, prices: np.ndarray | None = None) -> Assignment:
        """The least sum of squared distances to centers [k, D] float64; `prices` [k] for centres near by save work."""
        offers, k = self._market.offers(centers), len(centers)
        if prices is None or self._smoothing is None:
            self._smoothing = self._market.smoothing(offers)
        if prices is None:
            few = len(self._x) / COARSE / 50
            zero = np.zeros(k, np.float32)
            prices = self._market.prices(offers, zero, self._smoothing, self._target, few, every=COARSE)
        prices = self._market.prices(offers, prices.astype(np.float32), self._smoothing / FINE, self._target, k)
        return self._settle(offers, centers, prices)

    def _settle(self, offers: Offers, centers: np.ndarray, prices: np.ndarray) -> Assignment:
        """The exact assignment, from prices [k] float32 that are nearly right.

        Points for which another cluster is nearly as good are in doubt, and are assigned in float64. For the rest, the
        prices that come of it must prove that they are where they belong; where they do not, these are in doubt too.
        """
        labels, margins = self._market.choices(offers, prices)
        sizes = np.bincount(labels, minlength=len(centers))
        wrong = np.maximum(sizes - self._upper, 0).sum() + np.maximum(self._lower - sizes, 0).sum()
        doubtful = _smallest(margins, DOUBTFUL * (len(centers) + int(wrong))) | (margins <= 0)
        while True:
            rows = np.flatnonzero(doubtful)
            costs = (centers**2).sum(axis=1) - 2 * (self._x[rows].astype(np.float64) @ centers.T)
            others = np.bincount(labels[~doubtful], minlength=len(centers))
            found = assign(costs, self._lower, self._upper, prices=prices.astype(np.float64), others=others)
            if found is None:
                doubtful |= _smallest(margins, 2 * len(rows))
                continue
            chosen, margins_then = self._market.choices(offers, found.prices)
            proved = (chosen == labels) & (margins_then > 0)
            if (doubtful | proved).all():
                labels[rows] = found.labels
                return found._replace(labels=labels)
            doubtful |= ~proved


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` smallest are."""
    count = min(count, len(values))
    return values <= np.partition(values, count - 1)[count - 1]
