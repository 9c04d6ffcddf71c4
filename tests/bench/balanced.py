"""Balanced K-means against k-means-constrained: one assignment from equal centers, and fits from equal centers.

Both make clusters of equal sizes, up to one. What they minimize differs: ours the sum of squared distances, exactly, as
Bradley et al. do; k-means-constrained in its assignment the sum of distances that are not squared, rounded to 1/1000,
and in its means the squares. `relative_inertia` is ours by theirs, less one. Its fit assigns the points once more at
the end, so ours has one iteration more.

The points are made as features of CLIP are: at length 1, with a mean of about 0.7 that all share, and a spectrum that
falls like one over the square root; in as many clusters as are sought, whose sizes differ (log-normal, 0.5).
"""

import importlib.util

import numpy as np

from rgjax.regroup.balanced.kmeans import Balancer, balanced_kmeans
from rgjax.regroup.kmeans import KMeansSettings, kmeans
from tests.bench.case import Case

DIM, ITERATIONS = 512, 20
LARGE, SMALL = (49_500, 99), (4_291, 59)


def balanced_step_large() -> Case:
    return _step(*LARGE)


def balanced_step_small() -> Case:
    return _step(*SMALL)


def balanced_large() -> Case:
    return _fit(*LARGE)


def balanced_small() -> Case:
    return _fit(*SMALL)


def _step(n: int, k: int) -> Case:
    """One assignment without known duals, of points that are on the device."""
    x, centers = _points(n, k)
    balancer = Balancer(x, k)

    def ours():
        return balancer.assign(centers.astype(np.float64)).labels

    def theirs():
        from k_means_constrained.k_means_constrained_ import _labels_constrained

        return _labels_constrained(x, centers, n // k, -(-n // k), distances=np.zeros(n, np.float32))[0]

    def inertia(labels):
        return float(((x - centers[labels]) ** 2).sum(dtype=np.float64))

    return _case(ours, theirs, inertia, n, k)


def _fit(n: int, k: int) -> Case:
    x, centers = _points(n, k)

    def ours():
        return balanced_kmeans(x, k, KMeansSettings(max_iter=ITERATIONS + 1, tol=0.0), init=centers).labels

    def theirs():
        from k_means_constrained import KMeansConstrained

        limits = {"size_min": n // k, "size_max": -(-n // k), "max_iter": ITERATIONS, "tol": 0}
        return KMeansConstrained(k, init=centers, n_init=1, **limits).fit(x).labels_

    def inertia(labels):
        return float(sum(((x[labels == c] - x[labels == c].mean(axis=0)) ** 2).sum(dtype=np.float64) for c in range(k)))

    return _case(ours, theirs, inertia, n, k, assignments=ITERATIONS + 1)


def _points(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, DIM], less their mean, and the centers [k, DIM] that plain K-means finds in 20 iterations."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    shares = rng.lognormal(sigma=0.5, size=k)
    middles = rng.standard_normal((k, DIM), np.float32) * spectrum
    common = rng.standard_normal(DIM, np.float32)
    x = middles[rng.choice(k, n, p=shares / shares.sum())] + 0.9 * rng.standard_normal((n, DIM), np.float32) * spectrum
    x += 3.5 * common / np.linalg.norm(common)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x -= x.mean(axis=0)
    return x, kmeans(x, k, KMeansSettings(n_init=1, max_iter=20)).centers


def _case(ours, theirs, inertia, n: int, k: int, **facts) -> Case:
    facts = {"points": n, "dim": DIM, "clusters": k, "precision": "float32 and float64"} | facts
    if importlib.util.find_spec("k_means_constrained") is None:
        return Case(ours, None, facts)
    return Case(ours, theirs, facts | {"relative_inertia": inertia(ours()) / inertia(theirs()) - 1})
