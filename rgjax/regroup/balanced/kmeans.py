"""Balanced K-means (Bradley, Bennett & Demiriz 2000): clusters of equal sizes, or of a least size.

In each iteration the points are assigned at the least sum of squared distances that the sizes allow. The devices find
prices that are nearly right (`prices`); the host settles in float64, exactly, the points that these leave in doubt
(`assignment`). The next iteration begins with the prices of the last one.
"""

import numpy as np

from rgjax.regroup.balanced.assignment import Assignment, assign
from rgjax.regroup.balanced.duals import Market, Offers
from rgjax.regroup.kmeans import KMeansResult, checked, kmeans

SAMPLE = 8  # of so many points one is enough for the first prices
SMOOTHING = 0.4  # to begin with, of the mean difference between a point's best costs
SHARPER = 16  # from prices that are about right, it is smaller by this factor
DOUBTFUL, DOUBTFUL_OVER = 20, 4  # points of each cluster, and for each that it has too many


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

    The first centers are `init` [k, D], else those of plain K-means, the best of `n_init` starts. The centers that are
    returned are their members' means; no iteration makes the inertia larger. Calls with an equal `pad_to` = (points,
    centers) and D run the same compiled programs. Each process of a multi-process run computes for itself.
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
        self._x, self._pad_to = x, pad_to or (n, k)
        self._market, self._smoothing = Market(x, self._pad_to), 0.0
        self._lower = np.full(k, min_size or n // k)
        self._upper = np.full(k, n if min_size else -(-n // k))
        # Of a least size: prices are not below zero, and zero where there are more.
        self._wanted, self._least = (min_size, 0.0) if min_size else (n / k, -np.inf)

    def assign(self, centers: np.ndarray, prices: np.ndarray | None = None) -> Assignment:
        """The least sum of squared distances to centers [k, D] float64; `prices` [k] for centers near by save work."""
        offers, k = self._market.offers(centers), len(centers)
        if prices is None or not self._smoothing:
            prices = self._first_prices(centers)
        prices = self._market.prices(offers, prices, self._smoothing / SHARPER, self._wanted, self._least, k / 2)
        return self._settle(offers, centers, prices)

    def _first_prices(self, centers: np.ndarray) -> np.ndarray:
        """Prices [k] that are about right, by a sample of the points."""
        zero = np.zeros(len(centers), np.float32)
        points, clusters = self._pad_to
        x = self._x[::SAMPLE]
        market = Market(x, (-(-points // SAMPLE), clusters))
        offers = market.offers(centers)
        self._smoothing = max(SMOOTHING * float(market.choices(offers, zero)[1].mean()), 1e-30)
        wanted, enough = self._wanted * len(x) / len(self._x), len(x) / 50
        return market.prices(offers, zero, self._smoothing, wanted, self._least, enough)

    def _settle(self, offers: Offers, centers: np.ndarray, prices: np.ndarray) -> Assignment:
        """The exact assignment, from prices [k] float32 that are nearly right.

        Points for which another cluster is nearly as good are in doubt, and are assigned in float64. For the rest, the
        prices that come of it must prove that they are where they belong; where they do not, these are in doubt too.
        """
        labels, margins = self._market.choices(offers, prices)
        sizes = np.bincount(labels, minlength=len(centers))
        many = DOUBTFUL + DOUBTFUL_OVER * np.maximum(sizes - self._upper, 0)
        rank = _rank_in_cluster(margins, labels)
        doubtful = (rank < many[labels]) | (margins <= 0)
        while True:
            rows, others = np.flatnonzero(doubtful), np.bincount(labels[~doubtful], minlength=len(centers))
            costs = self._costs(rows, centers)
            found = assign(costs, self._lower, self._upper, prices=prices.astype(np.float64), others=others)
            if found is None:
                many *= 2
                doubtful |= rank < many[labels]
                continue
            chosen, margins = self._market.choices(offers, found.prices)
            unproved = np.flatnonzero(~doubtful & ((chosen != labels) | (margins <= 0)))
            paid = self._costs(unproved, centers) - found.prices
            wrong = unproved[paid[np.arange(len(unproved)), labels[unproved]] > paid.min(axis=1)]
            if not len(wrong):
                labels[rows] = found.labels
                return found._replace(labels=labels)
            doubtful[wrong] = True

    def _costs(self, rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
        """Squared distances [rows, k] in float64, each less the point's squared length."""
        return (centers**2).sum(axis=1) - 2 * (self._x[rows].astype(np.float64) @ centers.T)


def _rank_in_cluster(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many rows of the same label have a smaller value, [N]; the first of equals is taken for the smaller."""
    order = np.argsort(values, kind="stable")
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.empty(len(values), int)
    rank[order] = np.arange(len(values)) - np.repeat(first, counts)
    return rank
