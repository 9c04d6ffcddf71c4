"""Depthwise convolution, lowered to the form that each platform runs fast.

Accelerators get XLA's own convolution. On CPUs, that is ten to fifty times slower than a sum of shifted copies of the
image, each times its tap of the kernel: XLA fuses the k * k terms into one pass, and a few images at a time stay in the
cache. Under vmap, convolutions run one after the other, as those of `winograd`.

Shapes: images `x` are [B, H, W, C] (NHWC), kernels `w` are [k, k, C]; both share one dtype.
"""

from collections.abc import Iterator
from functools import partial, reduce
from math import ceil

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from rgjax.models.kernels.winograd import chunk_count, chunks, joined

_CACHED = 2**17  # values of a chunk; in float32, a quarter of two megabytes of L2 cache


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution of each channel by its own kernel, padded as by TensorFlow's 'SAME'.

    Args:
        x: images [B, H, W, C].
        w: kernel [k, k, C] in the dtype of `x`.
        stride: step of the window, the same along both axes.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), C] in the dtype of `x`.
    """
    return lax.platform_dependent(x, w, cpu=partial(_on_cpu, stride), default=partial(_by_xla, stride))


def _forward(x, w, stride):
    return depthwise(x, w, stride), (x, w)


def _backward(stride, saved, dy):
    def by_xla(x, w, dy):
        return jax.vjp(partial(_by_xla, stride), x, w)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=partial(_gradients_on_cpu, stride), default=by_xla)


depthwise.defvjp(_forward, _backward)


def _by_xla(stride, x, w):
    return lax.conv_general_dilated(
        x,
        w[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3],
    )


def _on_cpu(stride, x, w):
    @sequential_vmap
    def convolve(x, w):
        def chunk(x):
            return reduce(jnp.add, (window * w[i, j][None, None, None] for i, j, window in _windows(x, len(w), stride)))

        return joined(lax.map(chunk, chunks(x, chunk_count(x, _CACHED))))

    return convolve(x, w)


def _gradients_on_cpu(stride, x, w, dy):
    @sequential_vmap
    def gradients(x, w, dy):
        def chunk(total, rows):
            x, dy = rows
            return total + _kernel_gradient(x, dy, len(w), stride), _image_gradient(w, dy, x.shape, stride)

        n = chunk_count(x, _CACHED)
        dw, dx = lax.scan(chunk, jnp.zeros(w.shape, jnp.float32), (chunks(x, n), chunks(dy, n)))
        return joined(dx), dw.astype(w.dtype)

    return gradients(x, w, dy)


def _padding(side: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side of so many pixels."""
    total = max((ceil(side / stride) - 1) * stride + k - side, 0)
    return total // 2, total - total // 2


def _windows(x, k: int, stride: int) -> Iterator[tuple[int, int, jax.Array]]:
    """For each tap of the kernel, what it meets in the image: [B, H', W', C]."""
    rows, columns = (ceil(side / stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *(_padding(side, k, stride) for side in x.shape[1:3]), (0, 0)))
    for i in range(k):
        for j in range(k):
            yield i, j, x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]


def _kernel_gradient(x, dy, k: int, stride: int):
    # Sums as a product with ones: XLA's reduction takes 1.2 to 2 times as long.
    ones = jnp.ones((1, dy.size // dy.shape[3]), dy.dtype)
    products = ((window * dy).reshape(-1, dy.shape[3]) for _, _, window in _windows(x, k, stride))
    sums = [jnp.dot(ones, product, preferred_element_type=jnp.float32) for product in products]
    return jnp.concatenate(sums).reshape(k, k, -1)


def _image_gradient(w, dy, shape, stride: int):
    """The transposed convolution: pixels of a phase of the stride meet the same taps."""
    k, sides = len(w), shape[1:3]
    rows, columns = (ceil(side / stride) for side in sides)
    padded = jnp.pad(dy, ((0, 0), (k, k), (k, k), (0, 0)))

    def taps(side, phase):
        """Taps that pixels of this phase meet, and where the outputs begin."""
        start = phase + _padding(side, k, stride)[0]
        return [(i, k + (start - i) // stride) for i in range(k) if (start - i) % stride == 0]

    def phase(p, q):
        terms = [
            padded[:, down : down + rows, right : right + columns] * w[i, j][None, None, None]
            for i, down in taps(sides[0], p)
            for j, right in taps(sides[1], q)
        ]
        return reduce(jnp.add, terms)

    across = [jnp.stack([phase(p, q) for q in range(stride)], axis=3) for p in range(stride)]
    image = jnp.stack(across, axis=2).reshape(dy.shape[0], rows * stride, columns * stride, -1)
    return image[:, : sides[0], : sides[1]]
