"""Layers with parameters, as NNX modules: convolution, batch normalization and the two classifier heads.

Parameters are float32; the compute dtype is the dtype of what flows in. First values are drawn by NumPy on the
host: the same on every platform, and without a compilation for each shape (11 s of a ResNet34's start on a CPU).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from rgjax.models.kernels.conv import conv

# What is kept for the gradient where the rest, affine forms and ReLUs, is computed again.
KEEP_SUMS = jax.checkpoint_policies.save_only_these_names("convolution", "sums")


class Conv(nnx.Module):
    """Convolution without bias, initialized as He et al. 2015 (normal, fan-out), as torchvision's ResNets are."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, *, rng: np.random.Generator):
        drawn = rng.standard_normal((kernel, kernel, c_in, c_out), np.float32)
        self.kernel = nnx.Param(jnp.asarray(drawn * np.float32((2 / (kernel * kernel * c_out)) ** 0.5)))
        self.stride = stride

    def __call__(self, x):
        return checkpoint_name(conv(x, self.kernel[...].astype(x.dtype), self.stride), "convolution")


class BatchNorm(nnx.Module):
    """Batch normalization (Ioffe & Szegedy 2015) with torch's conventions: momentum 0.1, unbiased running variance.

    In training, statistics are taken in float32 over the batch: where `axis` names the mesh axis that a batch is
    spread over, over the whole of it, or over each device's part if `local`. Local statistics need no exchange before
    the next layer; the running ones are the devices' mean.
    """

    def __init__(
        self,
        features: int,
        *,
        axis: str | None = None,
        local: bool = False,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
    ):
        ones, zeros = np.ones(features, np.float32), np.zeros(features, np.float32)
        self.scale, self.bias = nnx.Param(jnp.array(ones)), nnx.Param(jnp.array(zeros))
        self.mean, self.var = nnx.BatchStat(jnp.array(zeros)), nnx.BatchStat(jnp.array(ones))
        self.axis, self.local = axis, local
        self.momentum, self.epsilon = momentum, epsilon

    def __call__(self, x, train: bool):
        if not train:
            return _affine(x, self.scale[...], self.bias[...], self.mean[...], self.var[...], self.epsilon)
        shared = None if self.local else self.axis
        normalized: Any = batch_norm(x, self.scale[...], self.bias[...], self.epsilon, shared)  # custom_vjp hides it
        y, mean, var = normalized
        n = _batch_size(x, shared)
        new = jnp.stack([mean, var * (n / max(n - 1, 1))])
        if self.local and self.axis:
            new = jax.lax.pmean(new, self.axis)
        keep = 1.0 - self.momentum
        self.mean[...] = keep * self.mean[...] + self.momentum * new[0]
        self.var[...] = keep * self.var[...] + self.momentum * new[1]
        return y


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(x, scale, bias, epsilon: float, axis: str | None = None):
    """`x` [B, H, W, C] normalized by its own mean and (biased) variance, and those two [C]; `axis` as in `BatchNorm`.

    The gradient is written out so that each direction reads `x` once for the sums and once for the result. None
    flows through the returned mean and variance.
    """
    return _batch_norm_forward(x, scale, bias, epsilon, axis)[0]


def _batch_norm_forward(x, scale, bias, epsilon, axis):
    n = _batch_size(x, axis)
    sums = checkpoint_name(_channel_sums(x, x, axis), "sums")
    mean = sums[0] / n
    var = jnp.maximum(sums[1] / n - mean * mean, 0.0)
    return (_affine(x, scale, bias, mean, var, epsilon), mean, var), (x, scale, mean, var)


def _batch_norm_backward(epsilon, axis, saved, cotangents):
    x, scale, mean, var = saved
    dy = cotangents[0]
    n = _batch_size(x, axis)
    local = _channel_sums(dy, x, None)
    total = _over_devices(local, axis)
    inverse = jax.lax.rsqrt(var + epsilon)

    def scale_gradient(sums):
        return (sums[1] - mean * sums[0]) * inverse

    # dx = scale / std * (dy - mean(dy) - normalized x * mean(dy * normalized x)), as one affine form in dy and x
    by_dy = scale * inverse
    by_x = -by_dy * inverse * scale_gradient(total) / n
    rest = -by_dy * total[0] / n - by_x * mean
    dx = dy * _as_channels(by_dy, dy) + x * _as_channels(by_x, x) + _as_channels(rest, x)
    return dx, scale_gradient(local), local[0]


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _batch_size(x, axis) -> int:
    """Values a channel over all devices of `axis`."""
    return x.size // x.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))


def _channel_sums(x, y, axis):
    """Sums [2, C] of x and of x * y over all but the channels, in float32.

    One reduction that reads them once; on a CPU XLA gives that one a single thread (16 ms of a step of 250), so two.
    """

    def one_by_one(x, y):
        return jnp.stack([x.sum(axis=(0, 1, 2)), (x * y).sum(axis=(0, 1, 2))])

    def together(x, y):
        zero = jnp.zeros((), jnp.float32)
        return jnp.stack(jax.lax.reduce((x, x * y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0, 1, 2)))

    sums = jax.lax.platform_dependent(x.astype(jnp.float32), y.astype(jnp.float32), cpu=one_by_one, default=together)
    return _over_devices(sums, axis)


def _over_devices(values, axis):
    """Sums over the devices of a mesh axis, if there are several: XLA copies even what only one device reduces."""
    return values if axis is None or jax.lax.axis_size(axis) == 1 else jax.lax.psum(values, axis)


def _affine(x, scale, bias, mean, var, epsilon):
    scale = scale * jax.lax.rsqrt(var + epsilon)
    return x * _as_channels(scale, x) + _as_channels(bias - mean * scale, x)


def _as_channels(values, x):
    return values.astype(x.dtype).reshape(1, 1, 1, -1)


class LinearHead(nnx.Module):
    """Logits `x @ W + b` in float32, initialized as torch's Linear (uniform in 1/sqrt(fan-in))."""

    def __init__(self, features: int, classes: int, *, rng: np.random.Generator):
        bound = features**-0.5
        self.kernel = nnx.Param(_uniform(rng, bound, (features, classes)))
        self.bias = nnx.Param(_uniform(rng, bound, (classes,)))

    def __call__(self, x):
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...][None]


class CosineHead(nnx.Module):
    """Cosines between features and class directions, in [-1, 1]: the head that LDAM (Cao et al. 2019) trains."""

    def __init__(self, features: int, classes: int, *, rng: np.random.Generator):
        self.kernel = nnx.Param(_uniform(rng, 1.0, (features, classes)))

    def __call__(self, x):
        return _unit(x.astype(jnp.float32), axis=1) @ _unit(self.kernel[...], axis=0)


def widen(head: nnx.Module, outputs: int) -> None:
    """Give a head `outputs` outputs in all; the new ones have zeros for parameters."""

    def pad(values):
        return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, outputs - values.shape[-1])])

    nnx.update(head, jax.tree.map(pad, nnx.state(head)))


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(rng.uniform(-bound, bound, shape).astype(np.float32))


def _unit(x, axis):
    # The floor on the squared norm keeps the gradient finite where a feature vector is all zero.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=axis, keepdims=True), 1e-12))


HEADS = {"linear": LinearHead, "cosine": CosineHead}
