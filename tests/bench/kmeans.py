"""K-means against scikit-learn: Lloyd from equal centers, k-means++ alone, and whole fits of ten starts.

Results of `rgjax.regroup.kmeans` are NumPy arrays: a call returns when they are there.
"""

import numpy as np

from rgjax.regroup.kmeans import KMeansSettings, kmeans
from tests.bench.case import Case

DIM, ITERATIONS = 512, 20
LARGE, SMALL = (49_500, 99), (4_291, 59)
SMALL_CALLS = 10  # classes are clustered one after another, and for tens of ms after a pause threads share a core


def kmeans_large() -> Case:
    return _lloyd(*LARGE, 1)


def kmeans_small() -> Case:
    return _lloyd(*SMALL, SMALL_CALLS)


def kmeans_init() -> Case:
    """Greedy k-means++. Ours also labels the points, takes their inertia, and checks and centers them."""
    from sklearn.cluster import kmeans_plusplus

    n, k = LARGE
    x = _points(n, k)

    def ours():
        return kmeans(x, k, KMeansSettings(n_init=1, max_iter=0))

    def theirs():
        return kmeans_plusplus(x, k, random_state=0)

    potential = kmeans(x, k, KMeansSettings(max_iter=0), init=theirs()[0]).inertia
    return _case(ours, theirs, n, k, relative_potential=ours().inertia / potential - 1)


def kmeans_n_init() -> Case:
    from sklearn.cluster import KMeans

    n, k = SMALL
    x = _points(n, k)

    def ours():
        return kmeans(x, k, KMeansSettings(max_iter=ITERATIONS))

    def theirs():
        return KMeans(k, n_init=10, max_iter=ITERATIONS, random_state=0).fit(x)

    return _case(ours, theirs, n, k, n_init=10, relative_inertia=ours().inertia / theirs().inertia_ - 1)


def _lloyd(n: int, k: int, per_call: int) -> Case:
    from sklearn.cluster import KMeans

    x = _points(n, k)
    init = x[:k].copy()

    def ours():
        return kmeans(x, k, KMeansSettings(max_iter=ITERATIONS, tol=0.0), init=init)

    def theirs():
        return KMeans(k, init=init, n_init=1, max_iter=ITERATIONS, tol=0).fit(x)

    a, b = ours(), theirs()
    iterations = {"iterations": a.n_iter, "their_iterations": int(b.n_iter_)}
    return _case(
        ours, theirs, n, k, per_call=per_call, **iterations, relative_inertia=a.inertia / float(b.inertia_) - 1
    )


def _points(n: int, k: int) -> np.ndarray:
    """Overlapping clusters, float32 [n, DIM]."""
    rng = np.random.default_rng(0)
    middles = rng.normal(scale=0.5, size=(k, DIM)).astype(np.float32)
    return middles[rng.integers(0, k, n)] + rng.standard_normal((n, DIM), np.float32)


def _case(ours, theirs, n: int, k: int, per_call: int = 1, **facts) -> Case:
    def run(way):
        for _ in range(per_call):
            way()

    facts = {name: float(value) if isinstance(value, np.floating) else value for name, value in facts.items()}
    sizes = {"points": n, "dim": DIM, "clusters": k, "precision": "float32", "per_call": per_call}
    return Case(ours=lambda: run(ours), theirs=lambda: run(theirs), facts=sizes | facts)
