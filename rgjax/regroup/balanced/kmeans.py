"""Balanced K-means: clusters of equal sizes, or of a least size.

The algorithm is that of Bradley, Bennett & Demiriz (2000). Each iteration assigns the points at the least sum of
squared distances that the sizes allow. The devices find nearly optimal dual variables (`duals`); the host solves the
ambiguous points exactly in float64 (`assignment`). Each iteration starts from the duals of the last one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from rgjax.regroup.balanced.assignment import Assignment, assign
from rgjax.regroup.balanced.duals import Costs, DualSolver
from rgjax.regroup.kmeans import DEFAULTS, KMeansResult, KMeansSettings, checked, kmeans

SAMPLE = 8  # the first duals are estimated from one of so many points
SMOOTHING = 0.4  # the first smoothing, as a share of the mean margin between a point's two best costs
SHARPER = 16  # the smoothing is divided by this when it starts from nearly optimal duals
AMBIGUOUS, AMBIGUOUS_PER_EXCESS = 20, 4  # points of each cluster that the host assigns, and for each point too many


def balanced_kmeans(
    x: Shaped[np.ndarray, "N D"],
    k: int,
    settings: KMeansSettings = DEFAULTS,
    *,
    min_size: int = 0,
    init: np.ndarray | None = None,
) -> KMeansResult:
    """Cluster points by K-means under bounds on the sizes of the clusters.

    No iteration increases the inertia. The centers are the means of their points. Each process of a multi-process run
    computes for itself.

    Args:
        x: the points.
        k: the number of clusters.
        settings: as for `kmeans`, which makes the first centers.
        min_size: the least size of a cluster; 0: sizes of N / k, rounded up or down.
        init: the first centers [k, D] in place of those of `kmeans`.

    Raises:
        ValueError: for k outside 1..N, k * min_size above N, and values that are not finite.
    """
    x = checked(x, k)
    if k * min_size > len(x):
        raise ValueError(f"min_size={min_size}: {k} clusters of {len(x)} points; at most {len(x) // k}")
    if init is None:
        init = kmeans(x, k, settings).centers
    mean = x.mean(axis=0)
    x, centers = x - mean, np.float64(init) - mean
    balancer, tolerance = Balancer(x, k, min_size, settings.pad_to), settings.tol * x.var(axis=0).mean()
    labels, start, sums, n_iter, done = np.full(len(x), -1), None, np.zeros(centers.shape), 0, False
    while not done and n_iter < settings.max_iter:
        n_iter += 1
        # Assign the points at the least cost.
        start = balancer.first_start(centers) if start is None else start
        previous, (labels, duals, _) = labels, balancer.assign(centers, start)
        start = start._replace(duals=duals)
        # Move each center to the mean of its points.
        moved = np.flatnonzero(labels != previous)
        _move(sums, x[moved], previous[moved], labels[moved])
        means = sums / np.bincount(labels, minlength=k)[:, None]
        # Stop when no label has changed, or the centers hardly move.
        shift = ((means - centers) ** 2).sum()
        centers, done = means, not len(moved) or shift <= tolerance
    inertia = np.square(x).sum(dtype=np.float64) - (np.square(centers).sum(axis=1) * np.bincount(labels)).sum()
    return KMeansResult(labels, (centers + mean).astype(np.float32), float(inertia), n_iter)


def _move(sums: np.ndarray, points: np.ndarray, origins: np.ndarray, targets: np.ndarray) -> None:
    """Update the clusters' sums [k, D] for points [M, D] that change clusters.

    They move from the clusters `origins` [M], -1 for none, to `targets` [M].
    """
    for cluster in range(len(sums)):
        for members, sign in ((targets, 1), (origins, -1)):
            sums[cluster] += sign * points[members == cluster].sum(axis=0, dtype=np.float64)


class Start(NamedTuple):
    """Where an assignment starts: duals [k] float32, and the first smoothing."""

    duals: np.ndarray
    smoothing: float


class Balancer:
    """Assigns points x [N, D] float32 of mean zero to clusters of bounded sizes.

    The sizes are N / k, rounded up or down; with a `min_size`, at least that.
    """

    def __init__(self, x: np.ndarray, k: int, min_size: int = 0, pad_to: tuple[int, int] | None = None):
        n = len(x)
        self._x, self._pad_to = x, pad_to or (n, k)
        self._solver = DualSolver(x, self._pad_to)
        self._lower = np.full(k, min_size or n // k)
        self._upper = np.full(k, n if min_size else -(-n // k))
        # The duals of lower bounds are at least zero, and zero for clusters that are larger.
        self._target_size, self._lower_bound = (float(min_size), 0.0) if min_size else (n / k, -np.inf)

    def first_start(self, centers: np.ndarray) -> Start:
        """Approximate duals for centers [k, D], from a sample of the points."""
        zero = np.zeros(len(centers), np.float32)
        num_points, num_clusters = self._pad_to
        sample = self._x[::SAMPLE]
        solver = DualSolver(sample, (-(-num_points // SAMPLE), num_clusters))
        costs = solver.costs(centers)
        smoothing = max(SMOOTHING * float(solver.choices(costs, zero)[1].mean()), 1e-30)
        duals = solver.solve(
            costs,
            zero,
            smoothing=smoothing,
            target_size=self._target_size * len(sample) / len(self._x),
            lower_bound=self._lower_bound,
            tolerance=len(sample) / 50,
        )
        return Start(duals, smoothing)

    def assign(self, centers: np.ndarray, start: Start | None = None) -> Assignment:
        """The assignment of the least sum of squared distances to centers [k, D] float64.

        A `start` with the duals of nearby centers saves work.
        """
        start = start or self.first_start(centers)
        costs = self._solver.costs(centers)
        duals = self._solver.solve(
            costs,
            start.duals,
            smoothing=start.smoothing / SHARPER,
            target_size=self._target_size,
            lower_bound=self._lower_bound,
            tolerance=len(centers) / 2,
        )
        return self._exact(costs, centers, duals)

    def _exact(self, costs: Costs, centers: np.ndarray, duals: np.ndarray) -> Assignment:
        """The exact assignment, from nearly optimal duals [k] float32.

        Points for which another cluster is nearly as good are ambiguous, and are assigned in float64. The duals of that
        assignment must prove that all other points are where they belong; where they do not, these are ambiguous too.
        """
        labels, margins = self._solver.choices(costs, duals)
        sizes = np.bincount(labels, minlength=len(centers))
        count = AMBIGUOUS + AMBIGUOUS_PER_EXCESS * np.maximum(sizes - self._upper, 0)
        rank = _rank_in_cluster(margins, labels)
        ambiguous = (rank < count[labels]) | (margins <= 0)
        while True:
            # Assign the ambiguous points; with too few of them to meet the bounds, take more.
            indices, assigned = np.flatnonzero(ambiguous), np.bincount(labels[~ambiguous], minlength=len(centers))
            exact = self._costs(indices, centers)
            assignment = assign(exact, self._lower, self._upper, duals=duals.astype(np.float64), fixed_sizes=assigned)
            if assignment is None:
                count *= 2
                ambiguous |= rank < count[labels]
                continue
            # Check the rest by the new duals: first in float32 with its error bound, then, where unsure, in float64.
            chosen, margins = self._solver.choices(costs, assignment.duals)
            unsure = np.flatnonzero(~ambiguous & ((chosen != labels) | (margins <= 0)))
            reduced = self._costs(unsure, centers) - assignment.duals
            wrong = unsure[reduced[np.arange(len(unsure)), labels[unsure]] > reduced.min(axis=1)]
            if not len(wrong):
                labels[indices] = assignment.labels
                return assignment._replace(labels=labels)
            ambiguous[wrong] = True

    def _costs(self, indices: np.ndarray, centers: np.ndarray) -> np.ndarray:
        """Squared distances [indices, k] in float64, less the squared norm of the point."""
        return (centers**2).sum(axis=1) - 2 * (self._x[indices].astype(np.float64) @ centers.T)


def _rank_in_cluster(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rank [N] of each value among those of its label; ties rank by index."""
    order = np.argsort(values, kind="stable")
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.empty(len(values), int)
    rank[order] = np.arange(len(values)) - np.repeat(first, counts)
    return rank
