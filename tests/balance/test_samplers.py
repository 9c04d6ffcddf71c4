import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.balance.samplers import SAMPLERS, epoch_rows

LABELS = np.repeat([0, 1, 2], [50, 13, 5])
CLUSTERS = np.concatenate([np.repeat([0, 1], [48, 2]), np.full(13, 2), np.full(5, 3)])


@pytest.mark.parametrize(
    ("name", "counts"), [("none", [50, 13, 5]), ("ros", [50] * 3), ("rus", [5] * 3), ("rusc", [5] * 3)]
)
def test_counts_and_determinism(name, counts):
    pool = SAMPLERS[name](LABELS, CLUSTERS, 0)
    assert np.bincount(LABELS[pool]).tolist() == counts
    np.testing.assert_array_equal(pool, SAMPLERS[name](LABELS, CLUSTERS, 0))
    if name != "ros":
        assert len(set(pool.tolist())) == len(pool)


def test_oversampling_uses_every_row_evenly():
    uses = np.bincount(SAMPLERS["ros"](LABELS, CLUSTERS, 1))
    assert set(uses[50:63]) == {3, 4}
    assert set(uses[63:]) == {10}


def test_clustered_undersampling_takes_all_of_a_cluster_that_is_smaller_than_its_share():
    pool = SAMPLERS["rusc"](LABELS, CLUSTERS, 0)
    assert np.bincount(CLUSTERS[pool]).tolist() == [3, 2, 5, 5]


@pytest.mark.parametrize("draws", [3, 10, 25])
def test_an_epoch_is_made_of_whole_permutations(draws):
    rows = np.asarray(epoch_rows(jax.random.key(0), jnp.arange(10), draws))
    assert len(rows) == draws
    uses = np.bincount(rows, minlength=10)
    assert uses.max() - uses.min() <= 1
