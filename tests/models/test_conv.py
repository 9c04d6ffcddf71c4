"""The CPU lowering against XLA's own convolution, in value and in both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.models.kernels.conv import _conv_by_xla, conv

CASES = [  # map, kernel, stride, channels in and out
    ((32, 32), 7, 2, 3, 8),
    ((9, 7), 3, 1, 4, 5),
    ((9, 7), 3, 2, 4, 5),
    ((8, 8), 1, 2, 6, 4),
    ((2, 2), 3, 1, 4, 6),
    ((2, 2), 3, 2, 4, 6),
    ((1, 1), 3, 1, 5, 5),
    ((2, 1), 7, 2, 3, 4),
    ((9, 12), 3, 1, 8, 5),  # Winograd's, in one chunk
    ((64, 72), 3, 1, 48, 3),  # in three chunks
    ((7, 5), 3, 1, 160, 9),  # too few tiles for Winograd's
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_equals_xla_in_value_and_gradients(case):
    (height, width), kernel, stride, c_in, c_out = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, height, width, c_in)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, c_in, c_out)).astype(np.float32)
    dy = rng.normal(size=(3, -(-height // stride), -(-width // stride), c_out)).astype(np.float32)

    def value_and_gradients(form):
        @jax.jit
        def run(x, w, dy):
            y, vjp = jax.vjp(lambda x, w: form(x, w, stride), x, w)
            return y, *vjp(dy)

        return run(x, w, dy)

    for ours, theirs in zip(value_and_gradients(conv), value_and_gradients(_conv_by_xla), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.long
@pytest.mark.parametrize("channels", [4, 16])  # by patches, by Winograd's
@pytest.mark.parametrize("over", [(0, 0), (0, None), (None, 0)], ids=str)
def test_vmapped_convolution_equals_one_after_another(channels, over):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 9, 10, channels)).astype(np.float32)
    w = rng.normal(size=(3, 3, 3, channels, 5)).astype(np.float32)
    x, w = (values if axis == 0 else values[0] for values, axis in zip((x, w), over, strict=True))

    def value_and_gradients(x, w):
        y, vjp = jax.vjp(conv, x, w)
        return y, *vjp(jnp.cos(y))

    results = jax.vmap(value_and_gradients, in_axes=over)(x, w)
    for i in range(3):
        alone = value_and_gradients(*(v if axis is None else v[i] for v, axis in zip((x, w), over, strict=True)))
        for ours, expected in zip(results, alone, strict=True):
            np.testing.assert_allclose(ours[i], expected, rtol=1e-4, atol=1e-4)


def test_convolution_on_a_cpu_holds_no_xla_convolution():
    def gradient(x, w):
        return jax.grad(lambda w: conv(x, w, 1).sum())(w)

    program = jax.jit(gradient).lower(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))).compile().as_text()
    assert "convolution(" not in program
    assert "conditional(" not in program
