"""Pretrained ResNets, named as by torchvision and timm or by transformers."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rgjax.errors import UserError, first_few, unknown
from rgjax.models.backbone import Family, Options
from rgjax.models.layers import BatchNorm
from rgjax.models.preprocessing import PROCESSORS, TORCHVISION
from rgjax.models.pretrained import Checkpoint, Tensors
from rgjax.models.resnet import Numerics, Plan, Trunk

# Of timm's ResNets, those with the plain stem, shortcut and block, by the `architecture` in config.json.
TIMM = (
    *("resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
_EPSILON = 1e-5
_LARGEST = 10_000  # channels or blocks


class Naming(NamedTuple):
    """Names of convolution and normalization in stem, block and shortcut."""

    stem: tuple[str, str]
    block: str
    layer: tuple[str, str]
    shortcut: tuple[str, str]

    def layers(self, trunk: Trunk, depths: tuple[int, ...]) -> Iterator[tuple[Any, str]]:
        yield from zip((trunk.conv1, trunk.bn1), self.stem, strict=True)
        blocks = iter(trunk.blocks)
        for stage, depth in enumerate(depths):
            for i in range(depth):
                block: Any = next(blocks)
                prefix = self.block.format(stage=stage, number=stage + 1, i=i)
                for n in (1, 2, 3) if hasattr(block, "conv3") else (1, 2):
                    pair = getattr(block, f"conv{n}"), getattr(block, f"bn{n}")
                    for layer, name in zip(pair, self.layer, strict=True):
                        yield layer, prefix + name.format(number=n, index=n - 1)
                if block.projects:
                    for layer, name in zip((block.shortcut_conv, block.shortcut_bn), self.shortcut, strict=True):
                        yield layer, prefix + name


_TORCHVISION = Naming(
    ("conv1", "bn1"), "layer{number}.{i}.", ("conv{number}", "bn{number}"), ("downsample.0", "downsample.1")
)
_TRANSFORMERS = Naming(
    ("embedder.embedder.convolution", "embedder.embedder.normalization"),
    "encoder.stages.{stage}.layers.{i}.",
    ("layer.{index}.convolution", "layer.{index}.normalization"),
    ("shortcut.convolution", "shortcut.normalization"),
)


def _plan_of_tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """Sizes from the shapes of a checkpoint's tensors, which `build` checks."""
    arguments = checkpoint.json("config.json").get("model_args") if checkpoint.file("config.json") else None
    if arguments:
        raise UserError(f"checkpoint {checkpoint.name}: config.json has model_args={arguments!r}; none are supported")
    readers = checkpoint.tensors().weights.readers

    def outputs(name: str) -> int:
        if name not in readers:
            raise UserError(f"checkpoint {checkpoint.name}: tensor '{name}' is missing")
        shape = readers[name]().shape
        if len(shape) != 4 or not shape[0]:
            raise UserError(f"checkpoint {checkpoint.name}: tensor '{name}' has shape {shape}, not a convolution's")
        return shape[0]

    depths, widths, inner = [], [], []
    last = "conv3" if "layer1.0.conv3.weight" in readers else "conv2"
    while f"layer{len(depths) + 1}.0.conv1.weight" in readers:
        stage, depth = f"layer{len(depths) + 1}", 1
        while f"{stage}.{depth}.conv1.weight" in readers:
            depth += 1
        depths.append(depth)
        widths.append(outputs(f"{stage}.0.{last}.weight"))
        inner.append(outputs(f"{stage}.0.conv1.weight"))
    bottlenecks = tuple(inner) if last == "conv3" else None
    return {"plan": Plan(tuple(depths), tuple(widths), outputs("conv1.weight"), bottlenecks)}


def _plan_of_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Sizes from config.json, with the defaults of transformers' ResNetConfig."""
    defaults = {
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    values = {**defaults, **checkpoint.json("config.json")}
    depths, widths = values["depths"], values["hidden_sizes"]
    for name in ("depths", "hidden_sizes"):
        if not isinstance(values[name], list) or not values[name] or not all(map(_count, values[name])):
            raise _impossible(checkpoint, values, name)
    if len(depths) != len(widths):
        raise _impossible(checkpoint, values, "depths")
    for name in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if not isinstance(values[name], bool):
            raise _impossible(checkpoint, values, name)
    if values["num_channels"] != 3 or not _count(values["embedding_size"]):
        raise _impossible(checkpoint, values, "embedding_size" if values["num_channels"] == 3 else "num_channels")
    for name, valid in (("layer_type", ("basic", "bottleneck")), ("hidden_act", ("relu",))):
        if values[name] not in valid:
            raise unknown(f"{name} of checkpoint {checkpoint.name}", str(values[name]), valid)
    plan = Plan(
        tuple(depths),
        tuple(widths),
        values["embedding_size"],
        tuple(width // 4 for width in widths) if values["layer_type"] == "bottleneck" else None,
        2 if values["downsample_in_first_stage"] else 1,
        values["downsample_in_bottleneck"],
    )
    return {"plan": plan}


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < _LARGEST


def _impossible(checkpoint: Checkpoint, values: dict[str, Any], name: str) -> UserError:
    return UserError(f"checkpoint {checkpoint.name}: config.json has {name}={values[name]!r}")


def _build(naming: Naming, tensors: Tensors, settings: dict[str, Any], options: Options) -> Trunk:
    plan: Plan = settings["plan"]
    norm: Any = partial(options.norm or BatchNorm, epsilon=_EPSILON)
    trunk = Trunk(plan, numerics=Numerics(norm=norm, dtype=options.dtype), rng=np.random.default_rng(0))
    tensors = tensors.below(f"{naming.stem[0]}.weight")
    names = set()
    for layer, name in naming.layers(trunk, plan.depths):
        layer.load(tensors.at(name))
        names.add(name.partition(".")[0].rstrip("1234"))
    prefix, parts = tensors.prefixes[0], tuple(names)
    if extra := [name for name in tensors.weights.unused() if name.removeprefix(prefix).startswith(parts)]:
        raise UserError(f"{tensors.weights.source}: it has tensors that a plain ResNet has not: {first_few(extra)}")
    return trunk


# How microsoft/resnet-50 sees pictures.
_LIKE_CONVNEXT = {
    **PROCESSORS["ConvNext"],
    **{"size": {"shortest_edge": 224}, "crop_pct": 0.875},
    **{name: TORCHVISION[name] for name in ("image_mean", "image_std")},
}

RESNET = Family("images", _plan_of_tensors, partial(_build, _TORCHVISION), TORCHVISION)
RESNET_OF_TRANSFORMERS = Family("images", _plan_of_config, partial(_build, _TRANSFORMERS), _LIKE_CONVNEXT)
