from dataclasses import replace
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.neighbors import NearestNeighbors

from rgjax.errors import UserError
from rgjax.sampling import DeepSmoteSettings, smote
from rgjax.sampling.autoencoder import Autoencoder

deepsmote = import_module("rgjax.sampling.deepsmote")  # the package exports the function by this name
SETTINGS = DeepSmoteSettings(epochs=2, batch_size=16, latent=6, width=2, penalty=0.1, neighbors=3, seed=0)
LABELS = np.repeat([0, 1, 2], [40, 9, 1]).astype(np.int32)


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        yield


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), 9, 9, 3), np.uint8)


def network():
    model = Autoencoder(9, width=2, latent=6, rng=np.random.default_rng(0))
    return nnx.split(model, nnx.Param)


def test_penalty_differs_from_the_reconstruction_and_trains_the_encoder(images):
    graph, params = network()
    batch = deepsmote.as_floats(jnp.asarray(images[:8]))

    @jax.jit
    def errors(params, order):
        return deepsmote.errors(nnx.merge(graph, params), batch, order)

    gradient = jax.jit(jax.grad(lambda params, order: errors(params, order)[1]))

    def encoders_gradient(order):
        grads = gradient(params, order)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves((grads["down"], grads["to_code"]))])

    itself, turned, swapped = np.arange(8), np.roll(np.arange(8), -1), np.arange(8) ^ 1
    reconstruction, permuted = errors(params, turned)
    assert abs(float(permuted - reconstruction)) > 1e-4
    np.testing.assert_allclose(*errors(params, itself), rtol=1e-6)
    # The images are not permuted: compared to permuted images, the error would be the reconstruction's.
    model = nnx.merge(graph, params)
    decoded = model.decode(model.encode(batch)[turned])
    np.testing.assert_allclose(permuted, ((decoded - batch) ** 2).mean(), rtol=1e-5)
    by_turned, by_swapped, by_none = map(encoders_gradient, (turned, swapped, itself))
    size = np.linalg.norm(by_turned)
    assert size > 1e-4
    assert np.linalg.norm(by_turned - by_swapped) > 0.01 * size
    assert np.linalg.norm(by_turned - by_none) > 0.01 * size


def test_codes_are_permuted_within_their_classes():
    labels = jnp.array(np.random.default_rng(0).permutation(LABELS))
    orders = [np.asarray(deepsmote.within_classes(jax.random.key(i), labels)) for i in range(50)]
    for order in orders:
        assert sorted(order) == list(range(len(labels)))
        np.testing.assert_array_equal(labels[order], labels)
    meets = np.mean([order != np.arange(len(labels)) for order in orders], axis=0)
    assert meets[labels == 0].min() > 0.8  # of 40, one stays in its place on average
    assert meets[labels == 2].max() == 0


def synthetic(codes, near, draws=20, seed=0):
    """Synthetic codes [draws, D] of one class."""
    padded = smote.padded(codes), smote.padded(near)
    return np.asarray(smote.smote(jax.random.key(seed), *padded, np.int32(len(codes)), draws=draws))


@pytest.mark.parametrize("k", [3, 5, 40])
def test_neighbors_are_the_nearest_other_codes(k):
    codes = 3 + np.random.default_rng(0).standard_normal((30, 7), np.float32)
    codes[1] = codes[0]
    distances = np.square(codes[:, None].astype(np.float64) - codes).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    near, count = smote.nearest(codes, k), min(k, 29)
    assert near.shape == (30, k)
    reached = np.take_along_axis(distances, near[:, :count], axis=1)  # equal codes are in any order
    np.testing.assert_allclose(reached, np.sort(distances, axis=1)[:, :count], rtol=1e-4, atol=1e-6)
    assert (np.diff(np.sort(near[:, :count], axis=1), axis=1) > 0).all()
    assert (near[:, count:] == 0).all()


@pytest.mark.parametrize("members", [1, 2, 4, 60])
def test_synthetic_codes_lie_between_neighbors(members):
    codes = np.random.default_rng(0).standard_normal((members, 6), np.float32)
    made = synthetic(codes, smote.nearest(codes, 5), draws=400)
    if members == 1:
        np.testing.assert_array_equal(made, np.repeat(codes, 400, axis=0))
        return
    k = min(5, members - 1)
    partners = NearestNeighbors(n_neighbors=k).fit(codes).kneighbors(return_distance=False)
    start, way = codes[:, None], codes[partners] - codes[:, None]  # [members, k, D]
    ahead = made[:, None, None] - start
    share = np.clip((ahead * way).sum(-1) / (way**2).sum(-1), 0, 1)
    off = np.linalg.norm(ahead - share[..., None] * way, axis=-1).reshape(400, -1)
    assert off.min(axis=1).max() < 1e-5
    # All members and all their neighbors are drawn, and all parts of the segments.
    used = off.argmin(axis=1)
    assert len(set(used // k)) == members
    assert set(used % k) == set(range(k))
    assert share.reshape(400, -1)[np.arange(400), used].std() > 0.2


@pytest.mark.long
def test_classes_are_balanced_reproducibly(images):
    made = deepsmote.deepsmote(images, LABELS, SETTINGS)
    assert np.bincount(made.labels).tolist() == [0, 31, 39]
    assert made.images.shape == (70, 9, 9, 3) and made.images.dtype == np.uint8
    assert np.bincount(LABELS[made.shown]).tolist() == [12, 9, 1]
    assert made.reconstructed.shape == (22, 9, 9, 3)
    # The copies of a lone image are its reconstruction.
    np.testing.assert_array_equal(made.images[made.labels == 2], np.repeat(made.reconstructed[-1:], 39, axis=0))
    again = deepsmote.deepsmote(images, LABELS, SETTINGS)
    other = deepsmote.deepsmote(images, LABELS, replace(SETTINGS, seed=1))
    np.testing.assert_array_equal(made.images, again.images)
    assert (made.images != other.images).any()


@pytest.mark.long
def test_synthetic_images_resemble_their_class():
    """Each class has images of one color, in all shades of it."""
    labels, images = np.repeat([0, 1], [90, 20]).astype(np.int32), np.zeros((110, 8, 8, 3), np.uint8)
    shades = np.random.default_rng(0).integers(100, 256, (110, 1, 1))
    images[:90, :, :, :1], images[90:, :, :, 1:2] = shades[:90, ..., None], shades[90:, ..., None]
    made = deepsmote.deepsmote(images, labels, replace(SETTINGS, epochs=60, width=8, latent=16))
    red, green, blue = made.images.astype(float).mean(axis=(1, 2)).T
    assert green.min() > 4 * max(red.max(), blue.max())
    assert green.std() > 0.2 * shades[90:].std()  # not a single shade
    assert abs(green.mean() - shades[90:].mean()) < 20


@pytest.mark.long
def test_divergence_is_a_user_error(images, monkeypatch):
    monkeypatch.setattr(deepsmote, "_RATE", float("inf"))
    with pytest.raises(UserError, match="the autoencoder diverged"):
        deepsmote.deepsmote(images, LABELS, SETTINGS)


VALUES = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1e-45, -1e-38, 1e6, -1e15])


@pytest.mark.long
@given(st.integers(1, 8), st.lists(VALUES, min_size=1, max_size=5), st.integers(0, 2**31 - 1), st.sampled_from([1, 3]))
def test_any_codes_are_interpolated_between_neighbors(members, values, seed, neighbors):
    codes = np.random.default_rng(seed).choice(np.array(values, np.float32), (members, 2))
    padding = smote.nearest(codes, neighbors)
    near = padding[:, : members - 1]
    for code, neighborhood in enumerate(near):
        assert len(set(neighborhood)) == min(neighbors, members - 1)
        assert code not in neighborhood and (neighborhood < members).all()
    made = synthetic(codes, padding, seed=seed)
    assert np.isfinite(made).all()
    room = 1e-5 * np.ptp(codes, axis=0) + 1e-30
    assert (made >= codes.min(axis=0) - room).all() and (made <= codes.max(axis=0) + room).all()
    if members > 1:  # on a segment from a member to one of its neighbors
        start, end = np.repeat(codes, near.shape[1], axis=0), codes[near.ravel()]
        inside = (made[:, None] >= np.minimum(start, end) - room) & (made[:, None] <= np.maximum(start, end) + room)
        assert inside.all(axis=2).any(axis=1).all()


@given(arrays.arrays(np.int32, st.integers(1, 40), elements=st.sampled_from([0, 1, 4])))
def test_missing_labels_balance_the_classes(labels):
    added = np.concatenate([labels, smote.missing(labels)])
    counts = np.unique(labels, return_counts=True)[1]
    assert np.unique(added, return_counts=True)[1].tolist() == [counts.max()] * len(counts)


@given(arrays.arrays(np.int32, 9, elements=st.integers(0, 3)), st.integers(0, 2**31 - 1))
def test_any_labels_are_permuted_within_their_classes(labels, seed):
    order = np.asarray(deepsmote.within_classes(jax.random.key(seed), labels))
    assert sorted(order) == list(range(9))
    np.testing.assert_array_equal(labels[order], labels)
