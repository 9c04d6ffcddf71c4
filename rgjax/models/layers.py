"""Layers with parameters: convolution, batch normalization, classifier heads.

Parameters are float32; a layer computes in the dtype of its input; `load` takes the weights of a torch checkpoint.
NumPy draws initial values on the host: they are the same on every platform, and with `device_put`, unlike `asarray`, no
shape needs a compilation (11 s of a ResNet34's start on a CPU).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from rgjax.models.kernels.batch_norm import batch_norm, normalize, values_per_channel
from rgjax.models.kernels.conv import conv
from rgjax.models.kernels.depthwise import depthwise
from rgjax.models.pretrained import Tensors

# Rematerialization policy: keep convolutions and batch statistics, recompute normalizations and ReLUs.
KEEP_SUMS = jax.checkpoint_policies.save_only_these_names("convolution", "sums")


class Conv(nnx.Module):
    """Convolution without bias: [B, H, W, c_in] -> [B, H / stride, W / stride, c_out].

    Initial weights as in torchvision's ResNets: normal, scaled by fan-out (He et al. 2015).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, *, rng: np.random.Generator):
        drawn = rng.standard_normal((kernel, kernel, c_in, c_out), np.float32)
        self.kernel = nnx.Param(jax.device_put(drawn * np.float32((2 / (kernel * kernel * c_out)) ** 0.5)))
        self.stride = stride

    def __call__(self, x):
        return checkpoint_name(conv(x, self.kernel[...].astype(x.dtype), self.stride), "convolution")

    def load(self, tensors: Tensors) -> None:
        kh, kw, c_in, c_out = self.kernel.shape
        self.kernel[...] = jax.device_put(tensors.take("weight", (c_out, c_in, kh, kw)).transpose(2, 3, 1, 0))


class Depthwise(nnx.Module):
    """Convolution of each channel by its own kernel, padded as by TensorFlow's 'SAME'.

    [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C].
    """

    def __init__(self, channels: int, kernel: int, stride: int, *, rng: np.random.Generator):
        drawn = rng.standard_normal((kernel, kernel, channels), np.float32)
        self.kernel = nnx.Param(jax.device_put(drawn * np.float32(2**0.5 / kernel)))
        self.stride = stride

    def __call__(self, x):
        return checkpoint_name(depthwise(x, self.kernel[...].astype(x.dtype), self.stride), "convolution")

    def load(self, tensors: Tensors) -> None:
        k, _, channels = self.kernel.shape
        self.kernel[...] = jax.device_put(tensors.take("weight", (channels, 1, k, k))[:, 0].transpose(1, 2, 0))


class BatchNorm(nnx.Module):
    """Batch normalization (Ioffe & Szegedy 2015) with torch's conventions.

    These are a momentum of 0.1 and an unbiased running variance.

    Attributes:
        axis: the mesh axis over which a batch is spread; None on one device.
        local: each device normalizes its shard by its own statistics, which saves an exchange in each layer, as in
            torch's DistributedDataParallel; the running statistics are then the mean over the devices, where torch
            keeps those of the first. Otherwise statistics are those of the whole batch (torch's SyncBatchNorm).
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
        self.scale, self.bias = nnx.Param(_constant(1, features)), nnx.Param(_constant(0, features))
        self.mean, self.var = nnx.BatchStat(_constant(0, features)), nnx.BatchStat(_constant(1, features))
        self.axis, self.local = axis, local
        self.momentum, self.epsilon = momentum, epsilon

    def __call__(self, x, train: bool):
        if not train:
            return normalize(x, self.scale[...], self.bias[...], self.mean[...], self.var[...], self.epsilon)
        shared = None if self.local else self.axis
        results: Any = batch_norm(x, self.scale[...], self.bias[...], self.epsilon, shared)  # custom_vjp is untyped
        y, mean, var = results
        n = values_per_channel(x, shared)
        new = jnp.stack([mean, var * (n / max(n - 1, 1))])
        if self.local and self.axis:
            new = jax.lax.pmean(new, self.axis)
        keep = 1.0 - self.momentum
        self.mean[...] = keep * self.mean[...] + self.momentum * new[0]
        self.var[...] = keep * self.var[...] + self.momentum * new[1]
        return y

    def load(self, tensors: Tensors) -> None:
        values = {"weight": self.scale, "bias": self.bias, "running_mean": self.mean, "running_var": self.var}
        for name, value in values.items():
            value[...] = jax.device_put(tensors.take(name, value.shape))


class LinearHead(nnx.Module):
    """Logits `x W + b` in float32: [B, D] -> [B, classes].

    Initial values are torch's: uniform in +-1 / sqrt(D).
    """

    def __init__(self, features: int, classes: int, *, rng: np.random.Generator):
        bound = features**-0.5
        self.kernel = nnx.Param(_uniform(rng, bound, (features, classes)))
        self.bias = nnx.Param(_uniform(rng, bound, (classes,)))

    def __call__(self, x):
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...][None]


class CosineHead(nnx.Module):
    """Cosines of features and class vectors: [B, D] -> [B, classes].

    The head of LDAM (Cao et al. 2019).
    """

    def __init__(self, features: int, classes: int, *, rng: np.random.Generator):
        self.kernel = nnx.Param(_uniform(rng, 1.0, (features, classes)))

    def __call__(self, x):
        return _unit(x.astype(jnp.float32), axis=1) @ _unit(self.kernel[...], axis=0)


def widen(head: nnx.Module, outputs: int) -> None:
    """Pad a head with zeros to `outputs` outputs."""

    def pad(values):
        return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, outputs - values.shape[-1])])

    nnx.update(head, jax.tree.map(pad, nnx.state(head)))


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> jax.Array:
    return jax.device_put(rng.uniform(-bound, bound, shape).astype(np.float32))


def _constant(value: float, size: int) -> jax.Array:
    return jax.device_put(np.full(size, value, np.float32))


def _unit(x, axis):
    # The floor keeps the gradient finite for a vector of zeros.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=axis, keepdims=True), 1e-12))


HEADS = {"linear": LinearHead, "cosine": CosineHead}


def new_head(name: str, features: int, classes: int, *, rng: np.random.Generator) -> nnx.Module:
    """A head for a pretrained network.

    A linear one begins as Hugging Face's do: drawn from N(0, 0.02^2), with a bias of 0.

    Args:
        name: a key of `HEADS`.
        features: width of the network.
        classes: outputs.
        rng: draws the initial weights.
    """
    head = HEADS[name](features, classes, rng=rng)
    if isinstance(head, LinearHead):
        head.kernel[...] = jax.device_put(0.02 * rng.standard_normal((features, classes), np.float32))
        head.bias[...] = _constant(0, classes)
    return head
