"""Fused batch normalization with a gradient written by hand.

Each direction reads its input twice, for the sums and for the result (Ioffe & Szegedy 2015, section 3). Images `x` are
[B, H, W, C]; means, variances, scales and biases are [C] in float32. `axis` names the mesh axis whose devices share a
batch, if any.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(x, scale, bias, epsilon: float, axis: str | None = None):
    """Normalize images by their own statistics.

    Args:
        x: images [B, H, W, C].
        scale: factor of each channel [C].
        bias: offset of each channel [C].
        epsilon: added to the variance.
        axis: the mesh axis over which statistics are shared; None if each device takes its own.

    Returns:
        The normalized images in the dtype of `x`, their mean [C] and their biased variance [C]. No gradient flows
        through the mean and the variance.
    """
    return _batch_norm_forward(x, scale, bias, epsilon, axis)[0]


def _batch_norm_forward(x, scale, bias, epsilon, axis):
    n = values_per_channel(x, axis)
    sums = checkpoint_name(_channel_sums(x, x, axis), "sums")
    mean = sums[0] / n
    var = jnp.maximum(sums[1] / n - mean * mean, 0.0)
    return (normalize(x, scale, bias, mean, var, epsilon), mean, var), (x, scale, mean, var)


def _batch_norm_backward(epsilon, axis, saved, cotangents):
    x, scale, mean, var = saved
    dy = cotangents[0]
    n = values_per_channel(x, axis)
    local = _channel_sums(dy, x, None)
    total = _sum_over_devices(local, axis)
    inverse = jax.lax.rsqrt(var + epsilon)

    def scale_gradient(sums):
        return (sums[1] - mean * sums[0]) * inverse

    # With y = (x - mean) / std: dx = scale / std * (dy - mean(dy) - y * mean(dy * y)), as an affine form of dy and x.
    by_dy = scale * inverse
    by_x = -by_dy * inverse * scale_gradient(total) / n
    rest = -by_dy * total[0] / n - by_x * mean
    dx = dy * _as_channels(by_dy, dy) + x * _as_channels(by_x, x) + _as_channels(rest, x)
    return dx, scale_gradient(local), local[0]


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def values_per_channel(x, axis) -> int:
    """The number of values that each channel has on all devices of `axis` together."""
    return x.size // x.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))


def _channel_sums(x, y, axis):
    """Sums of x and of x * y over each channel: [2, C] in float32.

    One reduction reads both inputs once. A CPU gets two, as XLA runs a reduction of pairs on one thread there (16 ms
    of a step of 250).
    """

    def separately(x, y):
        return jnp.stack([x.sum(axis=(0, 1, 2)), (x * y).sum(axis=(0, 1, 2))])

    def together(x, y):
        zero = jnp.zeros((), jnp.float32)
        return jnp.stack(jax.lax.reduce((x, x * y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0, 1, 2)))

    sums = jax.lax.platform_dependent(x.astype(jnp.float32), y.astype(jnp.float32), cpu=separately, default=together)
    return _sum_over_devices(sums, axis)


def _sum_over_devices(values, axis):
    """`psum` if the axis has several devices: XLA copies even what one reduces."""
    return values if axis is None or jax.lax.axis_size(axis) == 1 else jax.lax.psum(values, axis)


def normalize(x, scale, bias, mean, var, epsilon):
    """`(x - mean) / sqrt(var + epsilon) * scale + bias`, as one affine form of x."""
    scale = scale * jax.lax.rsqrt(var + epsilon)
    return x * _as_channels(scale, x) + _as_channels(bias - mean * scale, x)


def _as_channels(values, x):
    return values.astype(x.dtype).reshape(1, 1, 1, -1)
