"""Layers with parameters, as NNX modules: convolution, batch normalisation and the two classifier heads.

Parameters are float32; the compute dtype is the dtype of what flows in.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from rgjax.models.conv import conv


class Conv(nnx.Module):
    """Convolution without bias, initialised as He et al. 2015 (normal, fan-out), as torchvision's ResNets are."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (kernel, kernel, c_in, c_out), jnp.float32))
        self.stride = stride

    def __call__(self, x):
        return conv(x, self.kernel[...].astype(x.dtype), self.stride)


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) with torch's conventions: momentum 0.1, unbiased running variance.

    Statistics are taken in float32 over the whole (global) batch and applied as `x * scale + shift`.
    """

    def __init__(self, features: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.momentum = momentum
        self.epsilon = epsilon

    def __call__(self, x, train: bool):
        if train:
            mean, var = self._batch_statistics(x)
        else:
            mean, var = self.mean[...], self.var[...]
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        shift = self.bias[...] - mean * scale
        per_channel = (1, 1, 1, -1)
        return x * scale.astype(x.dtype).reshape(per_channel) + shift.astype(x.dtype).reshape(per_channel)

    def _batch_statistics(self, x):
        n = x.size // x.shape[-1]
        x = x.astype(jnp.float32)
        mean = x.mean(axis=(0, 1, 2))
        var = jnp.maximum((x * x).mean(axis=(0, 1, 2)) - mean * mean, 0.0)
        keep = 1.0 - self.momentum
        self.mean[...] = keep * self.mean[...] + self.momentum * mean
        self.var[...] = keep * self.var[...] + self.momentum * var * (n / max(n - 1, 1))
        return mean, var


class LinearHead(nnx.Module):
    """Logits `x @ W + b` in float32, initialised as torch's Linear (uniform in 1/sqrt(fan-in))."""

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs):
        bound = features**-0.5
        draw = nnx.initializers.uniform(2 * bound)
        self.kernel = nnx.Param(draw(rngs.params(), (features, classes), jnp.float32) - bound)
        self.bias = nnx.Param(draw(rngs.params(), (classes,), jnp.float32) - bound)

    def __call__(self, x):
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...][None]


class CosineHead(nnx.Module):
    """Cosines between features and class directions, in [-1, 1]: the head that LDAM (Cao et al. 2019) trains."""

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), (features, classes), jnp.float32, minval=-1.0))

    def __call__(self, x):
        return _unit(x.astype(jnp.float32), axis=1) @ _unit(self.kernel[...], axis=0)


def _unit(x, axis):
    # The floor on the squared norm keeps the gradient finite where a feature vector is all zero.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=axis, keepdims=True), 1e-12))


HEADS = {"linear": LinearHead, "cosine": CosineHead}
