import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rgjax.sampling.samplers import SAMPLERS, cycled, epoch_rows

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


def test_oversampling_uses_every_example_evenly():
    uses = np.bincount(SAMPLERS["ros"](LABELS, CLUSTERS, 1))
    assert set(uses[50:63]) == {3, 4}
    assert set(uses[63:]) == {10}


def test_clustered_undersampling_exhausts_small_clusters():
    pool = SAMPLERS["rusc"](LABELS, CLUSTERS, 0)
    assert np.bincount(CLUSTERS[pool]).tolist() == [3, 2, 5, 5]


@pytest.mark.parametrize("draws", [3, 10, 25])
def test_epochs_consist_of_whole_permutations(draws):
    indices = np.asarray(epoch_rows(jax.random.key(0), jnp.arange(10), draws))
    assert len(indices) == draws
    uses = np.bincount(indices, minlength=10)
    assert uses.max() - uses.min() <= 1


def test_the_draw_of_a_cycled_pool_depends_on_its_own_size_alone():
    pool, key = np.array([3, 1, 4, 1, 5], np.int32), jax.random.key(0)
    rows = np.asarray(epoch_rows(key, jnp.asarray(cycled(pool, 12)), 12, jnp.int32(5)))
    for passed in (rows[:5], rows[5:10]):
        assert sorted(passed) == sorted(pool)
    assert len(rows) == 12 and not (rows[:5] == rows[5:10]).all()
    longer = np.append(cycled(pool, 12), np.arange(70, 80, dtype=np.int32))  # as the pool of another trial needs it
    np.testing.assert_array_equal(epoch_rows(key, jnp.asarray(longer), 12, jnp.int32(5)), rows)
    np.testing.assert_array_equal(epoch_rows(key, jnp.asarray(cycled(pool, 7)), 7, jnp.int32(5)), rows[:7])


@given(
    arrays.arrays(np.int64, st.integers(1, 60), elements=st.sampled_from([0, 1, 4])),
    st.sampled_from([np.int8, np.uint8, np.int32]),
    st.integers(0, 2**31),
)
def test_pools_have_the_right_class_counts(labels, dtype, seed):
    clusters = np.random.default_rng(seed).integers(0, 3, len(labels)) + 3 * labels
    labels = labels.astype(dtype)
    _, counts = np.unique(labels, return_counts=True)
    expected = {"none": counts, "deepsmote": counts, "ros": counts.max(), "rus": counts.min(), "rusc": counts.min()}
    for name, sampler in SAMPLERS.items():
        pool = sampler(labels, clusters, seed)
        assert pool.dtype == np.int32
        assert pool.min() >= 0 and pool.max() < len(labels)
        drawn = np.unique(labels[pool], return_counts=True)[1]
        np.testing.assert_array_equal(drawn, np.broadcast_to(expected[name], len(counts)), err_msg=name)
        uses = np.bincount(pool, minlength=len(labels))
        for label in np.unique(labels):
            assert np.ptp(uses[labels == label]) <= 1, name
        if name == "rusc":  # evenly over the clusters that are not exhausted
            for label in np.unique(labels):
                of_class = np.unique(clusters[labels == label])
                taken = np.array([uses[clusters == c].sum() for c in of_class])
                left = np.array([(clusters == c).sum() for c in of_class]) - taken
                assert taken[left > 0].min(initial=len(labels)) >= taken.max() - 1


@given(st.sampled_from([(1, 1), (1, 7), (5, 3), (5, 12)]), st.integers(0, 2**31 - 1))
def test_epochs_of_any_pool_are_even(shape, seed):
    size, draws = shape
    pool = np.random.default_rng(seed).integers(0, 100, size).astype(np.int32)
    rows = np.asarray(epoch_rows(jax.random.key(seed), jnp.asarray(pool), draws))
    assert (rows.shape, rows.dtype) == ((draws,), np.int32)
    times, spare = divmod(draws, size)
    extra = np.sort(rows)
    for row, count in zip(*np.unique(np.tile(pool, times), return_counts=True), strict=True):
        assert (extra == row).sum() >= count
    assert np.isin(rows, pool).all() and len(rows) == times * size + spare
