"""Convolution, lowered to the form that each platform runs fast.

Accelerators get XLA's own convolution. On CPUs, that is several times slower than a matrix product on small maps, and
twenty times slower inside a loop; there, convolution is a matrix product over gathered patches. Maps smaller than the
kernel are one matrix product everywhere: compiled for an A100, their convolutions transpose images and batch before and
after (a ResNet34 at 32 pixels: 178 transposes per step, 41 with products).

Shapes: images `x` are [B, H, W, I] (NHWC), kernels `w` are [kh, kw, I, O]; both share one dtype.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax

from rgjax.models.kernels import winograd


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """Two-dimensional convolution, zero-padded as by torch's `padding=k // 2`.

    Args:
        x: images [B, H, W, I].
        w: kernel [kh, kw, I, O], odd kh and kw, in the dtype of `x`.
        stride: step of the window, the same along both axes.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), O] in the dtype of `x`.
    """
    return lax.platform_dependent(x, w, cpu=_form(_conv_on_cpu, stride), default=_form(_conv_by_xla, stride))


def _conv_forward(x, w, stride):
    return conv(x, w, stride), (x, w)


def _conv_backward(stride, saved, dy):
    # The two lowerings are differentiated inside their own branch: differentiating across the choice of
    # platform would keep the patches of the branch that is not taken.
    return lax.platform_dependent(
        *saved,
        dy,
        cpu=_form(_gradients_on_cpu, stride),
        default=_form(_gradients_by_xla, stride),
    )


conv.defvjp(_conv_forward, _conv_backward)


@cache
def _form(function, stride):
    """One object for equal arguments, which JAX traces once for each shape."""
    return partial(function, stride=stride)


def _gradients(form, x, w, dy, stride):
    return jax.vjp(partial(form, stride=stride), x, w)[1](dy)


def _gradients_by_xla(x, w, dy, stride):
    return _gradients(_conv_by_xla, x, w, dy, stride)


def _conv_by_xla(x, w, stride):
    if _is_tiny(x):
        return _conv_by_matmul(x, w, stride)
    pads = [(k // 2, k // 2) for k in w.shape[:2]]
    return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_on_cpu(x, w, stride):
    if _fits_winograd(x, w, stride):
        return winograd.convolve(x, w)
    return _conv_by_matmul(x, w, stride)


def _gradients_on_cpu(x, w, dy, stride):
    if _fits_winograd(x, w, stride):
        return winograd.gradients(x, w, dy)
    return _gradients(_conv_by_matmul, x, w, dy, stride)


def _fits_winograd(x, w, stride):
    """Whether Winograd's algorithm is faster and possible.

    For few tiles, the kernel's transforms take longer than the products save. A batch of symbolic size, as in exported
    programs, cannot be cut into chunks that fit the cache.
    """
    suits = w.shape[:2] == (3, 3) and stride == 1 and not _is_tiny(x) and isinstance(x.shape[0], int)
    return suits and 8 <= x.shape[3] <= 8 * winograd.tiles(x.shape)


def _conv_by_matmul(x, w, stride):
    kh, kw, c_in, c_out = w.shape
    if kh == kw == 1:
        return x[:, ::stride, ::stride] @ w[0, 0]
    if _is_tiny(x):
        return _conv_of_tiny_map(x, w, stride)
    patches = _patches(x, kh, kw, stride)
    y = patches.reshape(-1, kh * kw * c_in) @ w.reshape(-1, c_out)
    return y.reshape(*patches.shape[:3], c_out)


def _is_tiny(x):
    return max(x.shape[1:3]) <= 2


def _patches(x, kh, kw, stride):
    """Windows of `x` as [B, H', W', kh * kw * I].

    Columns are joined first, so that each pixel is copied once per row of the kernel.
    """
    x = jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    for axis, k in ((2, kw), (1, kh)):
        count = (x.shape[axis] - k) // stride + 1
        x = jnp.concatenate(
            [lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride=stride, axis=axis) for i in range(k)],
            axis=3,
        )
    return x


def _conv_of_tiny_map(x, w, stride):
    """One product with the whole map, for maps that are smaller than the kernel."""
    kh, kw, _, c_out = w.shape
    batch, height, width, _ = x.shape
    out_h, out_w = -(-height // stride), -(-width // stride)
    tops = [kh // 2 - stride * p for p in range(out_h)]
    lefts = [kw // 2 - stride * q for q in range(out_w)]
    seen = [w[i : i + height, j : j + width].reshape(-1, c_out) for i in tops for j in lefts]
    y = x.reshape(batch, -1) @ jnp.concatenate(seen, axis=1)
    return y.reshape(batch, out_h, out_w, c_out)
