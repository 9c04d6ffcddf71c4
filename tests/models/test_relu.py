"""ReLUs joined with a sum or a pooling, in the form of each platform, against their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from rgjax.models.kernels.relu import add_relu, relu_max_pool

PLATFORMS = ["cpu", "tpu", "default"]
SHAPES = [(1, 1), (2, 2), (7, 5), (16, 9), (15, 8)]


@pytest.fixture(params=PLATFORMS)
def platform(request, monkeypatch):
    """Computes on the CPU in the form of this platform."""

    def choose(*arguments, default, **forms):
        return forms.get(request.param, default)(*arguments)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    return request.param


def value_and_gradient(function, x, dy):
    y, vjp = jax.vjp(function, x)
    return y, vjp(dy)[0]


def images_and_gradient(shape, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, *shape, 3)), rng.normal(size=(2, *(-(-n // 2) for n in shape), 3))
    return jnp.asarray(x, dtype), jnp.asarray(dy, dtype)


def pooled_parts(x):
    return linen.max_pool(jax.nn.relu(x), (3, 3), (2, 2), [(1, 1), (1, 1)])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pooling_equals_its_parts(shape, platform):
    x, dy = images_and_gradient(shape)
    y, dx = value_and_gradient(relu_max_pool, x, dy)
    expected, gradient = value_and_gradient(pooled_parts, x, dy)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(dx, gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("platform", ["default"], indirect=True)
def test_of_equal_values_the_first_gets_the_gradient_as_in_torch(platform):
    x = jnp.asarray(np.random.default_rng(0).integers(-1, 3, (2, 7, 8, 3)), jnp.float32)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)
    expected = np.zeros(x.shape, np.float32)
    for image, row, column, channel in np.ndindex(2, 4, 4, 3):
        window = [(i, j) for i in range(2 * row - 1, 2 * row + 2) for j in range(2 * column - 1, 2 * column + 2)]
        inside = [(i, j) for i, j in window if 0 <= i < 7 and 0 <= j < 8]
        i, j = max(inside, key=lambda at: float(x[image, *at, channel]))
        if x[image, i, j, channel] > 0:
            expected[image, i, j, channel] += dy[image, row, column, channel]
    np.testing.assert_allclose(value_and_gradient(relu_max_pool, x, dy)[1], expected, rtol=1e-6, atol=1e-6)


def test_pooling_hides_no_nan(platform):
    """A diverged activation must reach the loss, wherever it is in a window."""
    clean, dy = images_and_gradient((7, 5))
    for at in np.ndindex(7, 5):
        x = clean.at[0, *at, 0].set(jnp.nan)
        y, _ = value_and_gradient(relu_max_pool, x, dy)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(pooled_parts(x)))


def test_pooling_keeps_bfloat16(platform):
    _, dy = images_and_gradient((9, 8), jnp.bfloat16)
    different = np.arange(2 * 9 * 8 * 3, dtype=np.uint16) + np.uint16(0x3F80)  # consecutive numbers in bfloat16, from 1
    x = jnp.asarray(np.random.default_rng(0).permutation(different).view(jnp.bfloat16).reshape(2, 9, 8, 3))
    y, dx = value_and_gradient(relu_max_pool, x, dy)
    assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
    expected, gradient = value_and_gradient(pooled_parts, x.astype(jnp.float32), dy.astype(jnp.float32))
    np.testing.assert_array_equal(y.astype(jnp.float32), expected)
    np.testing.assert_allclose(dx.astype(jnp.float32), gradient, rtol=0.02, atol=0.02)


def test_vmapped_pooling_equals_one_after_another(platform):
    x, dy = images_and_gradient((7, 8))
    x, dy = jnp.stack([x, -x]), jnp.stack([dy, 2 * dy])
    results = jax.vmap(lambda x, dy: value_and_gradient(relu_max_pool, x, dy))(x, dy)
    for i in range(2):
        for ours, alone in zip(results, value_and_gradient(relu_max_pool, x[i], dy[i]), strict=True):
            np.testing.assert_array_equal(ours[i], alone)


def test_the_sum_with_a_relu_equals_its_parts():
    rng = np.random.default_rng(0)
    x, y, dz = (jnp.asarray(rng.normal(size=(2, 5, 4, 3)), jnp.float32) for _ in range(3))
    y = y.at[0].set(-x[0])  # sums of zero, where a ReLU passes no gradient
    value, vjp = jax.vjp(add_relu, x, y)
    expected, vjp_of_parts = jax.vjp(lambda x, y: jax.nn.relu(x + y), x, y)
    np.testing.assert_array_equal(value, expected)
    for ours, theirs in zip(vjp(dz), vjp_of_parts(dz), strict=True):
        np.testing.assert_array_equal(ours, theirs)
