"""ResNet-10, -18 and -34 (He et al. 2016) in torchvision's topology; torchvision itself begins at 18."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.kernels.conv import max_pool
from rgjax.models.layers import HEADS, KEEP_SUMS, BatchNorm, Conv

STAGES = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
STEMS = ("imagenet", "cifar")


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


def _in_turn(blocks: list[BasicBlock], x, train: bool):
    for block in blocks:
        x = block(x, train)
    return x


class ResNet(nnx.Module):
    """Basic-block ResNet; images [B, H, W, 3], normalized -> logits [B, classes] in float32.

    `stem` "imagenet" is the 7x7 stride-2 convolution with max-pooling; "cifar" a 3x3 convolution without,
    for images of about 32 pixels. `norm(channels)` makes the normalizations; `dtype` is the compute dtype of all but
    their statistics and the head. With `recompute` the gradient keeps what the convolutions give, and what enters
    every other block, and computes the normalized activations again.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        *,
        stem: str = "imagenet",
        head: str = "linear",
        width: int = 64,
        norm: Callable[[int], BatchNorm] = BatchNorm,
        recompute: bool = False,
        dtype=jnp.float32,
        rng: np.random.Generator,
    ):
        self.stem, self.recompute, self.dtype = stem, recompute, dtype
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
        """Penultimate activations [B, 8 * width], averaged over the map, in float32."""

        def run(part, module, x):
            if train and self.recompute:
                part = nnx.remat(part, static_argnums=2, policy=KEEP_SUMS)
            return part(module, x, train)

        x = run(ResNet._first_maps, self, x)
        for at in range(0, len(self.blocks), 2):
            x = run(_in_turn, list(self.blocks[at : at + 2]), x)
        return x.astype(jnp.float32).mean(axis=(1, 2))

    def _first_maps(self, x, train: bool):
        x = nnx.relu(self.bn1(self.conv1(x.astype(self.dtype)), train))
        return max_pool(x) if self.stem == "imagenet" else x

    def __call__(self, x, *, train: bool = False, key=None):
        """`key` is what networks with dropout need; this one has none."""
        return self.head(self.features(x, train))
