"""3x3 convolution of stride 1 by Winograd's minimal filtering F(4x4, 3x3).

Lavin & Gray 2016, section 4. Each 4x4 tile of the output takes 36 products per channel pair instead of 144, in 36
matrix products. The transforms are sums of shifted slices, each of which XLA fuses into one pass over the image. Under
vmap, convolutions run one after the other: batched, their tiles leave the cache, and the products transpose them (four
trials of a ResNet34 take 1.18 times as long as four alone when batched, 0.9 times in sequence).

Shapes: images [B, H, W, C], kernels [3, 3, I, O], tiles [36, T, C] with T = B * ceil(H / 4) * ceil(W / 4).
"""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap

# Values of a chunk. 128 images of 32x32x64 take 30 ms by these 2 MB instead of 80 in one piece, and 59 instead of 144
# for the gradients; half or twice as many are no faster (two AVX-512 cores, 2 MB of L2 and 32 of L3 cache).
_CACHED = 2**19
TILE = 4
_WINDOW = TILE + 2
# A third of the error of the customary 0, 1, -1, 2, -2: 1.2e-6 of the largest value of 64 channels in float32.
_POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])


def _transforms(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T [6, 6], G [6, 3] and A^T [4, 6] of the Toom-Cook scheme.

    It interpolates at `points` and at infinity.
    """
    remaining = [np.delete(points, j) for j in range(len(points))]
    inputs, kernels, outputs = np.zeros((_WINDOW, _WINDOW)), np.zeros((_WINDOW, 3)), np.zeros((TILE, _WINDOW))
    inputs[:-1, :-1] = [np.poly(rest)[::-1] for rest in remaining]
    inputs[-1] = np.poly(points)[::-1]
    norms = [np.prod(point - rest) for point, rest in zip(points, remaining, strict=True)]
    kernels[:-1] = np.vander(points, 3, increasing=True) / np.array(norms)[:, None]
    outputs[:, :-1] = np.vander(points, TILE, increasing=True).T
    kernels[-1, -1] = outputs[-1, -1] = 1
    return np.where(np.abs(inputs) < 1e-12, 0, inputs), kernels, outputs


_INPUTS, _KERNELS, _OUTPUTS = _transforms(_POINTS)
# From kernels [9, I * O] to their tiles, which are counted down the columns.
_BOTH_WAYS = np.einsum("pi,qj->qpij", _KERNELS, _KERNELS).reshape(_WINDOW**2, 9)


def tiles(shape: tuple[int, ...]) -> int:
    """T for images of `shape` [B, H, W, C]."""
    rows, columns = _grid(shape)
    return shape[0] * rows * columns


def _grid(shape):
    """Tiles down and across an image."""
    return -(-shape[1] // TILE), -(-shape[2] // TILE)


@sequential_vmap
def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x` [B, H, W, I], zero-padded by one, with `w` [3, 3, I, O] -> [B, H, W, O]."""
    n, kernels = chunk_count(x, _CACHED), _kernel_tiles(w)
    return joined(lax.map(lambda x: _image("ptc,pco->pto", x, kernels), chunks(x, n)))


@sequential_vmap
def gradients(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients of `convolve` by `x` and by `w`, from that by its value, `dy`.

    `dy` is [B, H, W, O]. The first is a convolution itself, with the kernel turned round; the second runs the products
    backwards.
    """
    n, turned = max(chunk_count(x, _CACHED), chunk_count(dy, _CACHED)), _kernel_tiles(w[::-1, ::-1])

    def chunk(products, rows):
        x, dy = rows
        products += jnp.einsum("ptc,pto->pco", _input_tiles(x), _output_tiles(dy))
        return products, _image("pto,pco->ptc", dy, turned)

    products, dx = lax.scan(chunk, jnp.zeros_like(turned), (chunks(x, n), chunks(dy, n)))
    dw = _BOTH_WAYS.T.astype(x.dtype) @ products.reshape(_WINDOW**2, -1)
    return joined(dx), dw.reshape(w.shape)


def chunk_count(x: jax.Array, cached: int) -> int:
    """Into how many equal chunks to cut `x` so that each has at most `cached` values."""
    if not isinstance(x.shape[0], int):  # a symbolic size, in exported programs
        return 1
    return next(n for n in range(1, len(x) + 1) if len(x) % n == 0 and (n == len(x) or x.size <= n * cached))


def chunks(x: jax.Array, n: int) -> jax.Array:
    """`x` [B, ...] as [n, B / n, ...], whose tiles stay in the cache."""
    return x.reshape(n, -1, *x.shape[1:])


def joined(x: jax.Array) -> jax.Array:
    """The inverse of `chunks`."""
    return x.reshape(-1, *x.shape[2:])


def _combine(matrix: np.ndarray, parts) -> list[jax.Array]:
    """The linear combination of `parts` by each row of `matrix`."""
    return [
        reduce(
            jnp.add, [part * np.asarray(factor, part.dtype) for factor, part in zip(row, parts, strict=True) if factor]
        )
        for row in matrix
    ]


def _along(matrix: np.ndarray, x: jax.Array, axis: int, count: int) -> jax.Array:
    """`matrix` applied to `count` windows along `axis`, one every four pixels.

    The rows of the matrix become a new first axis.
    """
    last = (count - 1) * TILE + 1
    slices = [lax.slice_in_dim(x, i, i + last, stride=TILE, axis=axis) for i in range(matrix.shape[1])]
    return jnp.stack(_combine(matrix, slices))


def _tiles(matrix: np.ndarray, x: jax.Array, before: int) -> jax.Array:
    batch, height, width, channels = x.shape
    rows, columns = _grid(x.shape)
    after = (matrix.shape[1] - TILE) - before
    x = jnp.pad(
        x,
        ((0, 0), (before, rows * TILE - height + after), (before, columns * TILE - width + after), (0, 0)),
    )
    x = _along(matrix, _along(matrix, x, 1, rows), 3, columns)
    return x.reshape(_WINDOW**2, batch * rows * columns, channels)


def _input_tiles(x):
    return _tiles(_INPUTS, x, before=1)


def _output_tiles(dy):
    """The transposed `_image`."""
    return _tiles(_OUTPUTS.T, dy, before=0)


def _kernel_tiles(w):
    return (_BOTH_WAYS.astype(w.dtype) @ w.reshape(9, -1)).reshape(_WINDOW**2, *w.shape[2:])


def _image(contraction, x, kernels):
    """Images [B, H, W, C] -> [B, H, W, O]."""
    batch, height, width, _ = x.shape
    rows, columns = _grid(x.shape)
    products = jnp.einsum(contraction, _input_tiles(x), kernels)
    y = products.reshape(_WINDOW, _WINDOW, batch, rows, columns, -1)
    y = jnp.stack(_combine(_OUTPUTS, y), axis=4).reshape(_WINDOW, batch, rows, columns * TILE, -1)
    y = jnp.stack(_combine(_OUTPUTS, y), axis=2).reshape(batch, rows * TILE, columns * TILE, -1)
    return y[:, :height, :width]
