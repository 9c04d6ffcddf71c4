"""ResNet-10, -18 and -34 (He et al. 2016) in torchvision's topology."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.kernels.conv import max_pool
from rgjax.models.layers import HEADS, KEEP_SUMS, BatchNorm, Conv

STAGES = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
STEMS = ("imagenet", "cifar")


@dataclass(frozen=True)
class Numerics:
    """How a ResNet computes, whatever its architecture.

    Attributes:
        norm: `norm(channels)` makes a batch normalization.
        recompute: save memory: the backward pass recomputes normalizations and ReLUs from the convolutions' outputs.
        dtype: of activations; statistics and logits are float32.
    """

    norm: Callable[[int], BatchNorm] = BatchNorm
    recompute: bool = False
    dtype: Any = jnp.float32


PLAIN = Numerics()


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, norm: Callable, rng: np.random.Generator):
        self.conv1 = Conv(c_in, c_out, 3, stride, rng=rng)
        self.bn1 = norm(c_out)
        self.conv2 = Conv(c_out, c_out, 3, 1, rng=rng)
        self.bn2 = norm(c_out)
        self.projects = stride != 1 or c_in != c_out
        if self.projects:
            self.shortcut_conv = Conv(c_in, c_out, 1, stride, rng=rng)
            self.shortcut_bn = norm(c_out)

    def __call__(self, x, train: bool):
        y = nnx.relu(self.bn1(self.conv1(x), train))
        y = self.bn2(self.conv2(y), train)
        shortcut = self.shortcut_bn(self.shortcut_conv(x), train) if self.projects else x
        return nnx.relu(y + shortcut)


def _run_blocks(blocks: list[BasicBlock], x, train: bool):
    for block in blocks:
        x = block(x, train)
    return x


class ResNet(nnx.Module):
    """Basic-block ResNet: normalized images [B, H, W, 3] -> logits [B, classes]."""

    def __init__(
        self,
        name: str,
        classes: int,
        *,
        stem: str = "imagenet",
        head: str = "linear",
        width: int = 64,
        numerics: Numerics = PLAIN,
        rng: np.random.Generator,
    ):
        """Draw a network.

        Args:
            name: depth, a key of `STAGES`.
            classes: outputs of the head.
            stem: "imagenet" (7x7 convolution of stride 2, max-pooling) or "cifar" (3x3, for images of 32 pixels).
            head: a key of `HEADS`.
            width: channels of the first stage; each further one has twice as many.
            numerics: how it computes.
            rng: draws the initial weights.
        """
        self.stem, self.recompute, self.dtype, norm = stem, numerics.recompute, numerics.dtype, numerics.norm
        self.conv1 = Conv(3, width, *((7, 2) if stem == "imagenet" else (3, 1)), rng=rng)
        self.bn1 = norm(width)
        blocks, c_in = [], width
        for stage, depth in enumerate(STAGES[name]):
            c_out = width * 2**stage
            for i in range(depth):
                blocks.append(BasicBlock(c_in, c_out, 2 if stage and i == 0 else 1, norm=norm, rng=rng))
                c_in = c_out
        self.blocks = nnx.List(blocks)
        self.head = HEADS[head](c_in, classes, rng=rng)

    def features(self, x, train: bool = False):
        """Penultimate activations, averaged over the image: [B, 8 * width] in float32."""

        def run(stage, module, x):
            if train and self.recompute:
                stage = nnx.remat(stage, static_argnums=2, policy=KEEP_SUMS)
            return stage(module, x, train)

        x = run(ResNet._run_stem, self, x)
        for at in range(0, len(self.blocks), 2):  # the backward pass keeps the input of every other block
            x = run(_run_blocks, list(self.blocks[at : at + 2]), x)
        return x.astype(jnp.float32).mean(axis=(1, 2))

    def _run_stem(self, x, train: bool):
        x = nnx.relu(self.bn1(self.conv1(x.astype(self.dtype)), train))
        return max_pool(x) if self.stem == "imagenet" else x

    def __call__(self, x, *, train: bool = False, key=None):
        """Logits; `key` is for networks with dropout, which this one has not."""
        return self.head(self.features(x, train))
