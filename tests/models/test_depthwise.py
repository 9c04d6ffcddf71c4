"""Depthwise convolution: the form for CPUs against XLA's own, with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.models.kernels import depthwise as module
from rgjax.models.kernels.depthwise import depthwise


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel, height, width", [(3, 8, 7), (5, 7, 10), (5, 1, 2), (3, 2, 1)])
def test_equals_the_convolution_of_xla(kernel, height, width, stride, monkeypatch):
    monkeypatch.setattr(module, "_CACHED", 2 * height * width * 6)  # chunks of two images
    x, w = drawn(4, height, width, 6), drawn(kernel, kernel, 6)
    expected, gradients = jax.vjp(lambda x, w: module._by_xla(stride, x, w), x, w)
    y, own = jax.vjp(lambda x, w: depthwise(x, w, stride), x, w)
    dy = drawn(*y.shape)
    for a, b in zip((y, *own(dy)), (expected, *gradients(dy)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


def test_trials_of_a_population_equal_single_ones():
    x, w = drawn(3, 2, 6, 6, 4), drawn(3, 3, 3, 4)
    together = jax.vmap(lambda x, w: depthwise(x, w, 2))(x, w)
    np.testing.assert_allclose(together, [depthwise(x, w, 2) for x, w in zip(x, w, strict=True)], atol=1e-6)
