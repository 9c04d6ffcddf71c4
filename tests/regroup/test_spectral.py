from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from rgjax.regroup.kmeans import KMeansSettings
from rgjax.regroup.spectral import embedding, neighbor_graph, normalized_cut

SETTINGS = KMeansSettings(pad_to=(900, 12))  # one compiled program for all tests


def ncut(graph, labels):
    """The sum over groups of the weight to other groups, as a share of all the weight of the group."""
    member = np.eye(labels.max() + 1)[labels]
    within = member.T @ (graph @ member)
    return (1 - np.diag(within) / within.sum(axis=1)).sum()


def directions(n, k, spread, seed=0):
    """Overlapping clusters of points at length 1, [n, 16]."""
    rng = np.random.default_rng(seed)
    middles, member = rng.normal(size=(k, 16)), rng.integers(0, k, n)
    x = middles[member] + spread * rng.normal(size=(n, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), member


@pytest.mark.parametrize("n", [7, 11, 200])
def test_neighbors_are_the_nearest_by_cosine(n):
    x = np.random.default_rng(n).normal(size=(n, 16)).astype(np.float32)
    count = min(10, n - 1)
    theirs = kneighbors_graph(x, count, metric="cosine").toarray()
    np.testing.assert_array_equal(neighbor_graph(x).toarray(), (theirs + theirs.T) / 2)


@pytest.mark.parametrize("n", [300, 900])
def test_embedding_spans_the_eigenvectors_of_the_smallest_eigenvalues(n):
    graph = neighbor_graph(directions(n, 5, 0.7)[0])
    degrees = graph.sum(axis=1)
    roots = np.sqrt(degrees)
    laplacian = np.eye(n) - graph.toarray() / np.outer(roots, roots)
    vectors = embedding(graph, 6, 0) * roots[:, None] / np.linalg.norm(roots)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-6)
    expected = np.linalg.eigvalsh(laplacian)[:6]
    np.testing.assert_allclose(np.linalg.eigvalsh(vectors.T @ laplacian @ vectors), expected, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("n", [300, 900])
def test_cuts_as_well_as_scikit_learn(n):
    apart, member = directions(n, 6, 0.15)
    assert adjusted_rand_score(member, normalized_cut(apart, 6, SETTINGS)) == 1
    x, _ = directions(n, 6, 0.9)
    theirs = SpectralClustering(6, affinity="nearest_neighbors", n_neighbors=11, random_state=0).fit(x).labels_
    graph = neighbor_graph(x)
    assert ncut(graph, normalized_cut(x, 6, SETTINGS)) <= 1.03 * ncut(graph, theirs)


@pytest.mark.long
@pytest.mark.parametrize("k", [3, 6, 9])
def test_components_stay_whole_if_there_are_enough(k):
    x, component = make_blobs(700, 16, centers=np.eye(16)[:6], cluster_std=0.02, random_state=0)
    labels = normalized_cut(x, k, SETTINGS)
    assert set(labels) == set(range(k))
    torn = [c for c in range(6) if len(set(labels[component == c])) > 1]
    assert torn == [] if k <= 6 else 0 < len(torn) <= 3


def test_a_seed_gives_the_same_groups():
    x, _ = directions(900, 6, 0.9)
    labels = normalized_cut(x, 6, replace(SETTINGS, seed=3))
    np.testing.assert_array_equal(normalized_cut(x, 6, replace(SETTINGS, seed=3)), labels)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (5, 4), (12, 12), (40, 2)])
@pytest.mark.parametrize("kind", ["different", "twins", "equal", "zero"])
def test_small_classes_and_equal_points(n, k, kind):
    x = np.random.default_rng(0).normal(size=(n, 16))
    if kind == "twins":
        x = np.repeat(x, 2, axis=0)[:n]
    if kind in ("equal", "zero"):
        x = np.full_like(x, kind == "equal")
    labels = normalized_cut(x, k, SETTINGS)
    assert labels.shape == (n,)
    assert 0 <= labels.min() <= labels.max() < k
    if kind == "different":
        assert len(set(labels)) == k


def test_bad_input():
    with pytest.raises(ValueError, match="k=5 clusters of 3 points"):
        normalized_cut(np.ones((3, 2)), 5)
