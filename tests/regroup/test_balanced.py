import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from sklearn.datasets import make_blobs

from rgjax.regroup.balanced.kmeans import Balancer, balanced_kmeans
from rgjax.regroup.kmeans import KMeansSettings, kmeans

PAD = (320, 10)  # one compiled program for all tests


def points(seed, kind, n=None, dim=4):
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(20, 300))
    x = rng.integers(-2, 3, (n, dim)) if kind == "integer" else rng.normal(size=(n, dim)) * 10.0 ** rng.integers(-2, 3)
    if kind == "duplicates":
        x = x[rng.integers(0, n // 5, n)]
    x = np.ones_like(x) if kind == "equal" else x
    return (x - x.mean(axis=0)).astype(np.float32), int(rng.integers(2, 10)), rng


def distances(x, centers):
    return ((x[:, None].astype(np.float64) - centers[None]) ** 2).sum(axis=2)


def total(costs, labels):
    return costs[np.arange(len(costs)), labels].sum()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["real", "integer", "duplicates", "equal"])
def test_even_assignment_matches_the_hungarian_method(kind):
    for seed in range(15):
        x, k, rng = points(seed, kind)
        n = len(x)
        balancer = Balancer(x, k, pad_to=PAD)
        start = None
        for centers in x[rng.choice(n, k, replace=False)], x[rng.choice(n, k)], rng.normal(size=(k, 4)):
            start = start or balancer.first_start(np.float64(centers))
            assignment = balancer.assign(np.float64(centers), start)
            start = start._replace(duals=assignment.duals)  # of other centers, the next time
            costs = distances(x, centers)
            sizes = np.bincount(assignment.labels, minlength=k)
            assert (sizes >= n // k).all()
            assert (sizes <= -(-n // k)).all()
            slots, spare = np.repeat(costs, n // k, axis=1), costs if n % k else costs[:, :0]
            barred = np.full((slots.shape[1] + spare.shape[1] - n, slots.shape[1]), 1e9)
            square = np.vstack(
                [np.hstack([slots, spare]), np.hstack([barred, np.zeros((len(barred), spare.shape[1]))])]
            )
            assert total(costs, assignment.labels) == pytest.approx(
                square[linear_sum_assignment(square)].sum(), rel=1e-9
            )


def test_min_size_assignment_matches_linear_programming():
    for seed in range(15):
        x, k, rng = points(seed, "duplicates" if seed % 3 == 0 else "real", n=90)
        n, least = len(x), int(rng.integers(1, len(x) // k + 1))
        balancer = Balancer(x, k, least, pad_to=PAD)
        start = None
        for scale in (1, 5):  # the farther the centers, the fewer points choose them
            centers = scale * x[rng.choice(n, k)].astype(np.float64)
            start = start or balancer.first_start(centers)
            assignment = balancer.assign(centers, start)
            start, costs = start._replace(duals=assignment.duals), distances(x, centers)
            assert np.bincount(assignment.labels, minlength=k).min() >= least
            each_point, clusters = np.kron(np.eye(n), np.ones(k)), np.kron(np.ones(n), np.eye(k))
            best = linprog(costs.ravel(), -clusters, np.full(k, -least), each_point, np.ones(n)).fun
            assert total(costs, assignment.labels) == pytest.approx(best, rel=1e-7)
    assert balancer.assign(np.zeros((k, 4))).labels.shape == (n,)


@pytest.mark.long
@pytest.mark.parametrize("min_size", [0, 12])
def test_inertia_never_increases_and_centers_are_means(min_size):
    x = make_blobs(301, 5, centers=7, random_state=0)[0].astype(np.float32)
    inertias = []
    for max_iter in range(1, 30):
        result = balanced_kmeans(
            x, 9, KMeansSettings(max_iter=max_iter, tol=0.0, pad_to=PAD), init=x[:9], min_size=min_size
        )
        means = np.array([x[result.labels == c].mean(axis=0) for c in range(9)])
        np.testing.assert_allclose(result.centers, means, atol=1e-4)
        assert result.inertia == pytest.approx(distances(x, means)[np.arange(301), result.labels].sum(), rel=1e-6)
        inertias.append(result.inertia)
        if result.n_iter < max_iter:
            break
    assert result.n_iter < 29
    assert (np.diff(inertias) <= 0).all()
    assert inertias[-1] < inertias[0]
    sizes = np.bincount(result.labels)
    assert sizes.min() >= min_size if min_size else np.ptp(sizes) <= 1


def test_balanced_clusters_equal_those_of_kmeans():
    x, expected = make_blobs(300, 5, centers=10, cluster_std=0.1, random_state=1)
    x = x.astype(np.float32)
    settings = KMeansSettings(pad_to=PAD)
    for result in (balanced_kmeans(x, 10, settings), balanced_kmeans(x, 10, settings, min_size=5)):
        plain = kmeans(x, 10, settings)
        np.testing.assert_array_equal(result.labels, plain.labels)
        assert result.inertia == pytest.approx(plain.inertia, rel=1e-5)
        assert len(set(zip(expected, result.labels, strict=True))) == 10


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="min_size=3: 4 clusters of 10 points; at most 2"):
        balanced_kmeans(np.ones((10, 2)), 4, min_size=3)
    with pytest.raises(ValueError, match="k=5 clusters of 3 points"):
        balanced_kmeans(np.ones((3, 2)), 5)
