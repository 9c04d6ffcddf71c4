"""The CPU lowering against XLA's own convolution and windowed maximum, in value and in both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from rgjax.models.conv import _conv_by_xla, conv, max_pool

CASES = [  # map, kernel, stride, channels in and out
    ((32, 32), 7, 2, 3, 8),
    ((9, 7), 3, 1, 4, 5),
    ((9, 7), 3, 2, 4, 5),
    ((8, 8), 1, 2, 6, 4),
    ((2, 2), 3, 1, 4, 6),
    ((2, 2), 3, 2, 4, 6),
    ((1, 1), 3, 1, 5, 5),
    ((2, 1), 7, 2, 3, 4),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_equals_xla_in_value_and_gradients(case):
    (height, width), kernel, stride, c_in, c_out = case
    kx, kw, kd = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(kx, (3, height, width, c_in))
    w = jax.random.normal(kw, (kernel, kernel, c_in, c_out))
    expected, vjp = jax.vjp(lambda x, w: _conv_by_xla(x, w, stride), x, w)
    got, our_vjp = jax.vjp(lambda x, w: conv(x, w, stride), x, w)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    dy = jax.random.normal(kd, expected.shape)
    for ours, theirs in zip(our_vjp(dy), vjp(dy), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)


def test_convolution_on_a_cpu_holds_no_xla_convolution():
    def gradient(x, w):
        return jax.grad(lambda w: conv(x, w, 1).sum())(w)

    program = jax.jit(gradient).lower(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))).compile().as_text()
    assert "convolution(" not in program
    assert "conditional(" not in program


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_max_pool_equals_the_windowed_maximum(size):
    x = jax.nn.relu(jax.random.normal(jax.random.key(1), (2, size, size, 3)))
    expected = linen.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
    np.testing.assert_array_equal(max_pool(x), expected)
