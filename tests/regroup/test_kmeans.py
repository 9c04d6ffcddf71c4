import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from rgjax.regroup.kmeans import kmeans


@pytest.mark.parametrize("seed", range(8))
def test_equals_scikit_learn_from_equal_centres(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    init = x[:7].copy()
    if seed % 2:
        init[3] = 100  # far from everything: this cluster starts empty
    theirs, ours = KMeans(7, init=init, n_init=1).fit(x), kmeans(x, 7, init=init)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    assert ours.n_iter == theirs.n_iter_
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)


def test_own_start_is_as_good_as_scikit_learns():
    x = make_blobs(600, 8, centers=12, random_state=0)[0].astype(np.float32)
    assert kmeans(x, 12).inertia <= 1.02 * KMeans(12, n_init=10, random_state=0).fit(x).inertia_


def test_equal_points_and_bad_input():
    result = kmeans(np.ones((10, 3), np.float32), 4)
    assert np.isfinite(result.centers).all()
    assert result.inertia == 0
    with pytest.raises(ValueError, match="k=5 clusters of 3 points"):
        kmeans(np.ones((3, 2), np.float32), 5)
    with pytest.raises(ValueError, match="finite"):
        kmeans(np.full((3, 2), np.nan, np.float32), 2)
