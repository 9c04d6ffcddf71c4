import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from rgjax.regroup.kmeans import _best_of, kmeans


def partition(labels):
    """A clustering without the names of its clusters."""
    return {tuple(np.flatnonzero(labels == label)) for label in np.unique(labels)}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([40, 300]),
    k=st.sampled_from([2, 7]),
    repeated=st.booleans(),
    far=st.integers(0, 1),
)
def test_equals_scikit_learn_from_equal_centres(seed, n, k, repeated, far):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    if repeated:  # tied points
        x = x[rng.integers(0, n // 4, n)]
    init = x[rng.choice(n, k, replace=False)].copy()
    if far:  # far from everything: this cluster starts empty
        init[-1] = 100
    theirs = KMeans(k, init=init, n_init=1).fit(x)
    ours = kmeans(x, k, init=init, pad_to=(320, 8))
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4, abs=1e-6)
    assert partition(ours.labels) == partition(theirs.labels_)
    assert ours.n_iter == theirs.n_iter_
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, atol=1e-4)


def test_tied_centres_go_to_the_lowest_index():
    x = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    theirs = KMeans(2, init=np.float32([[4.0], [4.0]]), n_init=1, max_iter=1).fit(x)
    ours = kmeans(x, 2, init=np.float32([[4.0], [4.0]]), max_iter=1)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_)


def test_padding_changes_nothing():
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    plain, padded = kmeans(x, 8, n_init=3), kmeans(x, 8, n_init=3, pad_to=(333, 20))
    np.testing.assert_array_equal(plain.labels, padded.labels)
    np.testing.assert_allclose(plain.centers, padded.centers, atol=1e-5)


def test_classes_of_every_size_share_one_program():
    x = np.random.default_rng(0).normal(size=(97, 3)).astype(np.float32)
    before = _best_of._cache_size()
    for n, k in ((97, 13), (60, 8), (20, 2)):
        kmeans(x[:n], k, pad_to=(97, 13), n_init=2)
    assert _best_of._cache_size() == before + 1


def test_own_start_is_as_good_as_scikit_learns():
    x = make_blobs(600, 8, centers=12, random_state=0)[0].astype(np.float32)
    theirs = KMeans(12, n_init=10, random_state=0).fit(x).inertia_
    assert kmeans(x, 12, pad_to=(700, 16)).inertia <= 1.02 * theirs


def test_equal_points_and_bad_input():
    result = kmeans(np.ones((10, 3), np.float32), 4, pad_to=(12, 5))
    assert np.isfinite(result.centers).all()
    assert result.inertia == 0
    with pytest.raises(ValueError, match="k=5 clusters of 3 points"):
        kmeans(np.ones((3, 2), np.float32), 5)
    with pytest.raises(ValueError, match="finite"):
        kmeans(np.full((3, 2), np.nan, np.float32), 2)
