import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_blobs

from rgjax.regroup.kmeans import HIGHEST, Form, KMeansSettings, kmeans
from tests.support.compilations import compiled_programs

module = importlib.import_module("rgjax.regroup.kmeans")
TF32X3, exact = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3, jnp.matmul
SMALL = KMeansSettings(pad_to=(320, 8))


def partition(labels):
    """A clustering without the names of its clusters."""
    return {tuple(np.flatnonzero(labels == label)) for label in np.unique(labels)}


@pytest.mark.long
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([40, 300]),
    k=st.sampled_from([2, 7]),
    repeated=st.booleans(),
    far=st.integers(0, 1),
)
def test_equals_scikit_learn_from_equal_centers(seed, n, k, repeated, far):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    if repeated:  # tied points
        x = x[rng.integers(0, n // 4, n)]
    init = x[rng.choice(n, k, replace=False)].copy()
    if far:  # far from everything: this cluster starts empty
        init[-1] = 100
    theirs = KMeans(k, init=init, n_init=1).fit(x)
    ours = kmeans(x, k, SMALL, init=init)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4, abs=1e-6)
    assert partition(ours.labels) == partition(theirs.labels_)
    assert ours.n_iter == theirs.n_iter_
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, atol=1e-4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of the points made here
@given(
    seed=st.integers(0, 10**6),
    k=st.sampled_from([1, 3, 8]),
    scale=st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e17, 3e38]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    kinds=st.integers(1, 40),
)
def test_any_points_get_the_nearest_center(seed, k, scale, offset, kinds):
    rng = np.random.default_rng(seed)
    x = ((rng.normal(size=(kinds, 5))[rng.integers(0, kinds, 40)] + offset) * scale).astype(np.float32)
    try:
        with np.errstate(over="ignore"):
            result = kmeans(x, k, KMeansSettings(seed, n_init=2, pad_to=(320, 8)))
    except ValueError:
        assert scale > 1e15
        return
    wide, centers = x.astype(np.float64), result.centers.astype(np.float64)
    distances = ((wide[:, None] - centers) ** 2).sum(axis=2)
    errors = distances[np.arange(40), result.labels]
    slack = 1e-4 * (distances.max() + 1e-30)
    assert (errors <= distances.min(axis=1) + slack).all()
    assert 0 <= result.inertia <= ((wide - wide.mean(axis=0)) ** 2).sum() * 1.001 + slack
    assert result.inertia == pytest.approx(errors.sum(), rel=1e-3, abs=40 * slack)
    assert result.labels.min() >= 0 and result.labels.max() < k


def test_tied_centers_go_to_the_lowest_index():
    x = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    theirs = KMeans(2, init=np.float32([[4.0], [4.0]]), n_init=1, max_iter=1).fit(x)
    ours = kmeans(x, 2, KMeansSettings(max_iter=1), init=np.float32([[4.0], [4.0]]))
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_)


@pytest.mark.long
def test_padding_changes_nothing():
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    plain, padded = kmeans(x, 8, KMeansSettings(n_init=3)), kmeans(x, 8, KMeansSettings(n_init=3, pad_to=(333, 20)))
    np.testing.assert_array_equal(plain.labels, padded.labels)
    np.testing.assert_allclose(plain.centers, padded.centers, atol=1e-5)


def tf32x3(a, b, precision):
    """Products as Triton computes TF32_TF32_F32_X3, except for how tensor cores round their sums."""
    if precision != TF32X3:
        return exact(a, b, precision=precision)

    def tf32(x):  # rounded to nearest, as by cvt.rna.tf32.f32
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + jnp.uint32(2**12)
        return jax.lax.bitcast_convert_type(bits & jnp.uint32(2**32 - 2**13), jnp.float32)

    high, low = zip(*((tf32(x), tf32(x - tf32(x))) for x in (a, b)), strict=True)
    small = exact(low[0], high[1], precision=HIGHEST) + exact(high[0], low[1], precision=HIGHEST)
    return small + exact(*high, precision=HIGHEST)


@pytest.mark.long
@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_wine])
def test_tf32x3_gives_the_labels_of_float32(load, monkeypatch):
    x = load().data.astype(np.float32)
    x /= x.std(axis=0) + 1e-3
    results = []
    for precision in (HIGHEST, TF32X3):
        monkeypatch.setattr(jnp, "matmul", tf32x3)
        monkeypatch.setattr(module, "_form", lambda _, precision=precision: Form(2**27, 128, True, precision))
        results.append(kmeans(x, 7, KMeansSettings(n_init=2)))
    expected, result = results
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.n_iter == expected.n_iter
    assert result.inertia == pytest.approx(expected.inertia, rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("rows", "product"), [(1, False), (1, True), (16, True)])
@pytest.mark.parametrize("far", [False, True])
def test_chunks_and_products_change_nothing(monkeypatch, rows, product, far):
    x = np.random.default_rng(0).normal(size=(301, 6)).astype(np.float32) + 5
    init = x[:9].copy()
    if far:  # an empty cluster takes a point of some chunk
        init[-1] = 100
    monkeypatch.setattr(module, "_form", lambda _: Form(10**6, 1, False))
    three = KMeansSettings(n_init=3)
    from_init, from_starts = kmeans(x, 9, init=init), kmeans(x, 9, three)
    monkeypatch.setattr(module, "_form", lambda _: Form(9 * 40, rows, product))  # 8 chunks of 38 points, the last of 35
    monkeypatch.setattr(module, "MEMORY", 4 * 304 * 2)  # two starts together, then one
    for expected, result in ((from_init, kmeans(x, 9, init=init)), (from_starts, kmeans(x, 9, three))):
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_allclose(result.centers, expected.centers, atol=1e-5)
        assert result.n_iter == expected.n_iter
        assert result.inertia == pytest.approx(expected.inertia, rel=1e-5)


@pytest.mark.long
def test_number_of_devices_does_not_matter(eight_devices, monkeypatch):
    x = np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32)
    far = x[:5].copy()
    far[-1] = 100
    settings = KMeansSettings(n_init=2, pad_to=(101, 5), max_iter=6)
    expected = None
    for count in (1, 2, 4, 8):
        mesh = jax.sharding.Mesh(np.array(eight_devices[:count]), ("data",))
        monkeypatch.setattr(module, "_mesh", lambda mesh=mesh: mesh)
        results = [
            kmeans(x, 5, settings),
            kmeans(x, 5, settings, init=far),
            kmeans(x[:9], 3, settings),  # most devices have no point
        ]
        expected = expected or results
        for result, reference in zip(results, expected, strict=True):
            for field, value in result._asdict().items():
                np.testing.assert_allclose(value, getattr(reference, field), rtol=1e-5, atol=1e-5, err_msg=field)


@pytest.mark.long
def test_classes_of_every_size_share_one_program():
    x = np.random.default_rng(0).normal(size=(97, 3)).astype(np.float32)
    settings = KMeansSettings(pad_to=(97, 13), n_init=2)
    kmeans(x, 13, settings)
    with compiled_programs() as names:
        for n, k in ((60, 8), (20, 2)):
            kmeans(x[:n], k, settings)
    assert names == []


def test_inertia_is_as_low_as_scikit_learns():
    x = make_blobs(600, 8, centers=12, random_state=0)[0].astype(np.float32)
    theirs = KMeans(12, n_init=10, random_state=0).fit(x).inertia_
    assert kmeans(x, 12, KMeansSettings(pad_to=(700, 16))).inertia <= 1.02 * theirs


@pytest.mark.long
def test_equal_points_and_bad_input():
    result = kmeans(np.ones((10, 3), np.float32), 4, KMeansSettings(pad_to=(12, 5)))
    assert np.isfinite(result.centers).all()
    assert result.inertia == 0
    with pytest.raises(ValueError, match="k=5 clusters of 3 points"):
        kmeans(np.ones((3, 2), np.float32), 5)
    with pytest.raises(ValueError, match="finite"):
        kmeans(np.full((3, 2), np.nan, np.float32), 2)
