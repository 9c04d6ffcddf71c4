"""3x3 convolution of stride 1 by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016, section 4).

Each 4x4 tile of the output takes 36 products a channel pair instead of 144, all of them in 36 matrix products.
The transforms are sums of shifted slices, which XLA fuses into one pass over the image each.

Shapes: images [B, H, W, C], kernels [3, 3, I, O], tiles [36, T, C] with T = B * ceil(H / 4) * ceil(W / 4).
"""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 4
_WINDOW = TILE + 2
# A third of the error of the customary 0, 1, -1, 2, -2: 1.2e-6 of the largest value of 64 channels in float32.
_POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])


def _transforms(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T [6, 6], G [6, 3] and A^T [4, 6] of the Toom-Cook scheme that interpolates at `points` and at infinity."""
    others = [np.delete(points, j) for j in range(len(points))]
    inputs, kernels, outputs = np.zeros((_WINDOW, _WINDOW)), np.zeros((_WINDOW, 3)), np.zeros((TILE, _WINDOW))
    inputs[:-1, :-1] = [np.poly(rest)[::-1] for rest in others]
    inputs[-1] = np.poly(points)[::-1]
    norms = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]
    kernels[:-1] = np.vander(points, 3, increasing=True) / np.array(norms)[:, None]
    outputs[:, :-1] = np.vander(points, TILE, increasing=True).T
    kernels[-1, -1] = outputs[-1, -1] = 1
    return np.where(np.abs(inputs) < 1e-12, 0, inputs), kernels, outputs


_INPUTS, _KERNELS, _OUTPUTS = _transforms(_POINTS)


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x` [B, H, W, I], zero-padded by one, with `w` [3, 3, I, O] -> [B, H, W, O]."""
    products = jnp.einsum("ptc,pco->pto", _input_tiles(x), _kernel_tiles(w))
    return _image(products, x.shape[:3])


def gradients(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients of `convolve` by `x` and by `w`, where the gradient by its value is `dy` [B, H, W, O].

    The first is a convolution itself, with the kernel turned round; the second runs the products backwards.
    """
    dx = _image(jnp.einsum("pto,pco->ptc", _input_tiles(dy), _kernel_tiles(w[::-1, ::-1])), x.shape[:3])
    products = jnp.einsum("ptc,pto->pco", _input_tiles(x), _output_tiles(dy))
    products = products.reshape(_WINDOW, _WINDOW, *w.shape[2:])
    products = jnp.stack(_combine(_KERNELS.T, [products[:, i] for i in range(_WINDOW)]))
    dw = jnp.stack(_combine(_KERNELS.T, [products[:, i] for i in range(_WINDOW)]), axis=1)
    return dx, dw


def _combine(matrix: np.ndarray, parts) -> list[jax.Array]:
    """The linear combination of `parts` by each row of `matrix`."""
    return [
        reduce(
            jnp.add, [part * np.asarray(factor, part.dtype) for factor, part in zip(row, parts, strict=True) if factor]
        )
        for row in matrix
    ]


def _along(matrix: np.ndarray, x: jax.Array, axis: int, count: int) -> jax.Array:
    """`matrix` applied to the `count` windows along `axis`, one every four places; its rows become a new first axis."""
    last = (count - 1) * TILE + 1
    slices = [lax.slice_in_dim(x, i, i + last, stride=TILE, axis=axis) for i in range(matrix.shape[1])]
    return jnp.stack(_combine(matrix, slices))


def _tiles(matrix: np.ndarray, x: jax.Array, before: int) -> jax.Array:
    batch, height, width, channels = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
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
    columns = jnp.stack(_combine(_KERNELS, [w[:, j] for j in range(3)]))
    rows = jnp.stack(_combine(_KERNELS, [columns[:, i] for i in range(3)]), axis=1)
    return rows.reshape(_WINDOW**2, *w.shape[2:])


def _image(products, shape):
    """Output tiles [36, T, O] as images of `shape` = (B, H, W)."""
    batch, height, width = shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    x = products.reshape(_WINDOW, _WINDOW, batch, rows, columns, -1)
    x = jnp.stack(_combine(_OUTPUTS, x), axis=4).reshape(_WINDOW, batch, rows, columns * TILE, -1)
    x = jnp.stack(_combine(_OUTPUTS, x), axis=2).reshape(batch, rows * TILE, columns * TILE, -1)
    return x[:, :height, :width]
