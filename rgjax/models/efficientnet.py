"""EfficientNet-Lite (Tan & Le 2019; Liu 2020).

It has ReLU6 and no squeeze-and-excitation. As in TensorFlow, convolutions are padded as 'SAME' and batch normalizations
have an epsilon of 1e-3.
"""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.backbone import Family, Options
from rgjax.models.kernels.winograd import chunk_count, chunks, joined
from rgjax.models.layers import BatchNorm, Conv, Depthwise
from rgjax.models.preprocessing import TORCHVISION
from rgjax.models.pretrained import Checkpoint, Tensors
from rgjax.models.torch_file import PACKAGED

# Multipliers of width and depth, and the side of its images in pixels.
VARIANTS = {"efficientnet-lite0": (1.0, 1.0, 224), "efficientnet-lite2": (1.1, 1.2, 260)}
# Of each stage: blocks, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280  # channels, the same in all variants
_EPSILON = 1e-3
_CACHED = 3 * 2**16  # values of the images in a chunk: one of 224 pixels, four of 128


class Block(nnx.Module):
    """Inverted residual (Sandler et al. 2018): expand, filter by channel, project."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int, *, norm: Callable, rng):
        inner = c_in * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand = Conv(c_in, inner, 1, 1, rng=rng)
            self.bn0 = norm(inner)
        self.depthwise = Depthwise(inner, kernel, stride, rng=rng)
        self.bn1 = norm(inner)
        self.project = Conv(inner, c_out, 1, 1, rng=rng)
        self.bn2 = norm(c_out)
        self.adds = stride == 1 and c_in == c_out

    def __call__(self, x, train: bool):
        y = x
        if self.expands:
            y = jax.nn.relu6(self.bn0(self.expand(y), train))
        y = jax.nn.relu6(self.bn1(self.depthwise(y), train))
        y = self.bn2(self.project(y), train)
        return x + y if self.adds else y


class EfficientNetLite(nnx.Module):
    """Images [B, H, W, 3] -> the mean over the last map [B, 1280] in float32."""

    width, above = _TOP, ("top", "bn1")

    def __init__(self, name: str, options: Options, *, rng: np.random.Generator):
        """Draw a network.

        Args:
            name: a key of `VARIANTS`.
            options: its dtype and batch normalization.
            rng: draws the initial weights.
        """
        width, depth, _ = VARIANTS[name]

        def norm(channels: int) -> Any:
            return (options.norm or BatchNorm)(channels, epsilon=_EPSILON)

        self.dtype = options.dtype
        self.stem = Conv(3, _STEM, 3, 2, rng=rng)
        self.bn0 = norm(_STEM)
        blocks, c_in = [], _STEM
        for stage, (count, kernel, stride, expansion, channels) in enumerate(_STAGES):
            c_out = _rounded(width * channels)
            for i in range(count if stage in (0, len(_STAGES) - 1) else ceil(depth * count)):
                blocks.append(Block(c_in, c_out, kernel, 1 if i else stride, expansion, norm=norm, rng=rng))
                c_in = c_out
        self.blocks = nnx.List(blocks)
        self.top = Conv(c_in, _TOP, 1, 1, rng=rng)
        self.bn1 = norm(_TOP)

    def features(self, x, *, train: bool = False, key=None):
        def in_chunks(x):
            return joined(jax.lax.map(self._run, chunks(x, chunk_count(x, _CACHED))))

        # On CPUs, few images at a time stay in the cache through all layers; training has to see the whole batch.
        return self._run(x, train) if train else jax.lax.platform_dependent(x, cpu=in_chunks, default=self._run)

    def _run(self, x, train: bool = False):
        x = jax.nn.relu6(self.bn0(_same(self.stem, x.astype(self.dtype)), train))
        for block in self.blocks:
            x = block(x, train)
        x = jax.nn.relu6(self.bn1(self.top(x), train))
        return x.astype(jnp.float32).mean(axis=(1, 2))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, but at least nine tenths of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _same(conv: Conv, x):
    """A 3x3 convolution of stride 2, padded as by TensorFlow: even sides at their end."""
    even = [1 - n % 2 for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *((n, n) for n in even), (0, 0)))
    return conv(x)[:, even[0] :, even[1] :]


def _named(network: EfficientNetLite) -> Iterator[tuple[Any, str]]:
    """The layers with their names in the published checkpoints."""
    yield network.stem, "_conv_stem"
    yield network.bn0, "_bn0"
    for i, block in enumerate(network.blocks):
        if block.expands:
            yield block.expand, f"_blocks.{i}._expand_conv"
            yield block.bn0, f"_blocks.{i}._bn0"
        yield block.depthwise, f"_blocks.{i}._depthwise_conv"
        yield block.bn1, f"_blocks.{i}._bn1"
        yield block.project, f"_blocks.{i}._project_conv"
        yield block.bn2, f"_blocks.{i}._bn2"
    yield network.top, "_conv_head"
    yield network.bn1, "_bn1"


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    name = next(name for name, known in PACKAGED.items() if checkpoint.file(known.file))
    return {"name": name, "image_size": VARIANTS[name][2]}


def _build(tensors: Tensors, settings: dict[str, Any], options: Options) -> EfficientNetLite:
    network = EfficientNetLite(settings["name"], options, rng=np.random.default_rng(0))
    for layer, name in _named(network):
        layer.load(tensors.at(name))
    return network


# As timm's. The network was trained on TensorFlow's bilinear resize, which does not antialias; at these sizes, timm
# says, Pillow's bicubic resize is nearer to that than its bilinear one.
_PREPROCESSING = {**TORCHVISION, "resample": 3, "image_mean": (127 / 255,) * 3, "image_std": (128 / 255,) * 3}

EFFICIENTNET_LITE = Family("images", _settings, _build, _PREPROCESSING)
