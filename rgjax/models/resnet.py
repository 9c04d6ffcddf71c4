"""ResNets (He et al. 2016) in torchvision's topology."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.kernels.relu import add_relu, relu_max_pool
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


class Residual(nnx.Module):
    """A block's `branch` and a shortcut, projected where the shape changes."""

    branch: Callable[[Any, bool], Any]  # a method of each kind of block

    def draw_shortcut(self, c_in: int, c_out: int, stride: int, *, norm: Callable, rng: np.random.Generator):
        self.projects = stride != 1 or c_in != c_out
        if self.projects:
            self.shortcut_conv = Conv(c_in, c_out, 1, stride, rng=rng)
            self.shortcut_bn = norm(c_out)

    def __call__(self, x, train: bool):
        y = self.branch(x, train)
        shortcut = self.shortcut_bn(self.shortcut_conv(x), train) if self.projects else x
        return add_relu(y, shortcut)


class BasicBlock(Residual):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, norm: Callable, rng: np.random.Generator):
        self.conv1 = Conv(c_in, c_out, 3, stride, rng=rng)
        self.bn1 = norm(c_out)
        self.conv2 = Conv(c_out, c_out, 3, 1, rng=rng)
        self.bn2 = norm(c_out)
        self.draw_shortcut(c_in, c_out, stride, norm=norm, rng=rng)

    def branch(self, x, train: bool):
        y = nnx.relu(self.bn1(self.conv1(x), train))
        return self.bn2(self.conv2(y), train)


class Bottleneck(Residual):
    """A 3x3 convolution of few channels between two 1x1, and a shortcut.

    The stride is that of the 3x3 convolution, or with `stride_first`, as in He et al., of the first.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, *, inner: int, stride_first: bool, norm: Callable, rng):
        self.conv1 = Conv(c_in, inner, 1, stride if stride_first else 1, rng=rng)
        self.bn1 = norm(inner)
        self.conv2 = Conv(inner, inner, 3, 1 if stride_first else stride, rng=rng)
        self.bn2 = norm(inner)
        self.conv3 = Conv(inner, c_out, 1, 1, rng=rng)
        self.bn3 = norm(c_out)
        self.draw_shortcut(c_in, c_out, stride, norm=norm, rng=rng)

    def branch(self, x, train: bool):
        y = nnx.relu(self.bn1(self.conv1(x), train))
        y = nnx.relu(self.bn2(self.conv2(y), train))
        return self.bn3(self.conv3(y), train)


@dataclass(frozen=True)
class Plan:
    """The sizes of a ResNet.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage's output.
        stem: channels of the first convolution.
        inner: channels of each stage's bottlenecks; None for basic blocks.
        first_stride: of the first stage; that of the others is 2.
        stride_first: bottlenecks stride in their first convolution.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int
    inner: tuple[int, ...] | None = None
    first_stride: int = 1
    stride_first: bool = False

    def blocks(self, norm: Callable, rng: np.random.Generator) -> Iterator[nnx.Module]:
        c_in = self.stem
        for stage, (depth, c_out) in enumerate(zip(self.depths, self.widths, strict=True)):
            for i in range(depth):
                stride = 1 if i else 2 if stage else self.first_stride
                if self.inner is None:
                    yield BasicBlock(c_in, c_out, stride, norm=norm, rng=rng)
                else:
                    how = {"inner": self.inner[stage], "stride_first": self.stride_first}
                    yield Bottleneck(c_in, c_out, stride, **how, norm=norm, rng=rng)
                c_in = c_out


def _run_blocks(blocks: list[Any], x, train: bool):
    for block in blocks:
        x = block(x, train)
    return x


class Trunk(nnx.Module):
    """A ResNet without a head: normalized images [B, H, W, 3] -> features [B, D]."""

    def __init__(self, plan: Plan, *, stem: str = "imagenet", numerics: Numerics = PLAIN, rng: np.random.Generator):
        self.stem, self.recompute, self.dtype, norm = stem, numerics.recompute, numerics.dtype, numerics.norm
        self.width = plan.widths[-1]
        self.conv1 = Conv(3, plan.stem, *((7, 2) if stem == "imagenet" else (3, 1)), rng=rng)
        self.bn1 = norm(plan.stem)
        self.blocks = nnx.List(plan.blocks(norm, rng))

    def features(self, x, *, train: bool = False, key=None):
        """Penultimate activations, averaged over the image: [B, D] in float32."""

        def run(stage, module, x):
            if train and self.recompute:
                stage = nnx.remat(stage, static_argnums=2, policy=KEEP_SUMS)
            return stage(module, x, train)

        x = run(Trunk._run_stem, self, x)
        for at in range(0, len(self.blocks), 2):  # the backward pass keeps the input of every other block
            x = run(_run_blocks, list(self.blocks[at : at + 2]), x)
        return x.astype(jnp.float32).mean(axis=(1, 2))

    def _run_stem(self, x, train: bool):
        x = self.bn1(self.conv1(x.astype(self.dtype)), train)
        return relu_max_pool(x) if self.stem == "imagenet" else nnx.relu(x)


class ResNet(Trunk):
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
        widths = tuple(width * 2**stage for stage in range(len(STAGES[name])))
        super().__init__(Plan(STAGES[name], widths, width), stem=stem, numerics=numerics, rng=rng)
        self.head = HEADS[head](self.width, classes, rng=rng)

    def __call__(self, x, *, train: bool = False, key=None):
        """Logits; `key` is for networks with dropout, which this one has not."""
        return self.head(self.features(x, train=train))
