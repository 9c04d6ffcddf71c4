"""Layers with parameters, as NNX modules: convolution, batch normalisation and the two classifier heads.

Parameters are float32; the compute dtype is the dtype of what flows in. First values are drawn by NumPy on the
host: the same on every platform, and without a compilation for each shape (11 s of a ResNet34's start on a CPU).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.conv import conv


class Conv(nnx.Module):
    """Convolution without bias, initialised as He et al. 2015 (normal, fan-out), as torchvision's ResNets are."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, *, rng: np.random.Generator):
        drawn = rng.standard_normal((kernel, kernel, c_in, c_out), np.float32)
        self.kernel = nnx.Param(jnp.asarray(drawn * np.float32((2 / (kernel * kernel * c_out)) ** 0.5)))
        self.stride = stride

    def __call__(self, x):
        return conv(x, self.kernel[...].astype(x.dtype), self.stride)


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) with torch's conventions: momentum 0.1, unbiased running variance.

    Statistics are taken in float32 over the whole (global) batch and applied as `x * scale + shift`.
    """

    def __init__(self, features: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        ones, zeros = np.ones(features, np.float32), np.zeros(features, np.float32)
        self.scale, self.bias = nnx.Param(jnp.array(ones)), nnx.Param(jnp.array(zeros))
        self.mean, self.var = nnx.BatchStat(jnp.array(zeros)), nnx.BatchStat(jnp.array(ones))
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


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(rng.uniform(-bound, bound, shape).astype(np.float32))


def _unit(x, axis):
    # The floor on the squared norm keeps the gradient finite where a feature vector is all zero.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=axis, keepdims=True), 1e-12))


HEADS = {"linear": LinearHead, "cosine": CosineHead}
