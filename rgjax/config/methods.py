"""The methods, their grids, and the ablations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

from rgjax.config.fields import AUTO

Grid: TypeAlias = Mapping[str, Sequence]  # field -> values
Point: TypeAlias = dict[str, Any]  # of a grid: the `method`, optionally its `variant`, and the fields that it sets


@dataclass(frozen=True)
class Method:
    """A composition of regrouping, sampler and loss, with a label and a grid."""

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence] = field(default_factory=dict)
    images_only: bool = False

    @property
    def regroups(self) -> bool:
        return "regroup.clustering" in self.settings


_RG = {"regroup.clustering": "kmeans"}

# Grids of the paper's appendix A. Methods that regroup search the number of groups instead, with the default loss.
METHODS: dict[str, Method] = {
    "ce": Method("CE"),
    "wce": Method("WCE", {"loss.name": "wce"}),
    "focal": Method("Focal", {"loss.name": "focal"}, {"loss.gamma": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)}),
    "ldam": Method("LDAM", {"loss.name": "ldam"}, {"loss.max_m": (0.0, 0.5, 1.0), "loss.s": (10.0, 20.0, 30.0)}),
    "la": Method("LA", {"loss.name": "la"}, {"loss.tau": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)}),
    "ros": Method("ROS", {"sampler": "ros"}),
    "rus": Method("RUS", {"sampler": "rus"}),
    "rusc": Method("RUSC", {"sampler": "rusc"}),
    "dsmt": Method("DSMT", {"sampler": "deepsmote"}, images_only=True),
    "rg": Method("RG", _RG),
    "rg_wce": Method("RG+WCE", {**_RG, "loss.name": "wce"}),
    "rg_focal": Method("RG+Focal", {**_RG, "loss.name": "focal"}),
    "rg_ldam": Method("RG+LDAM", {**_RG, "loss.name": "ldam"}),
    "rg_la": Method("RG+LA", {**_RG, "loss.name": "la"}),
}
# Encoders by the kind of their inputs. config.encoder.name=auto means the first.
ENCODERS = {
    "images": ("clip", "projection", "pretrained", "file"),
    "sentences": ("bert", "pretrained", "file"),
    "features": (),
}
TEXT_METHODS = tuple(name for name, method in METHODS.items() if not method.images_only)

# Fields that a variant of a method sets, which the command line cannot override. Tables and folders show its name.
VARIANTS: dict[str, Point] = {
    "random groups": {"regroup.clustering": "random"},
    "balanced K-means": {"regroup.clustering": "balanced"},
    "normalised cut": {"regroup.clustering": "spectral"},  # British spelling, as in the folders of earlier sweeps
    "random projection": {"encoder.name": "projection", "encoder.checkpoint": "", "encoder.image_size": None},
    "original classes": {"regroup.clustering": "given"},  # those behind data.positive: an oracle
    "pseudo-class counts": {"loss.stats": "pseudo"},
}
_COUNTING = ("rg_wce", "rg_ldam", "rg_la")  # methods that regroup and weigh classes by their sizes

# The paper does not say how it fine-tunes. Batch size, warm-up and the learning rate, the largest of three, are those
# usual for BERT (Devlin et al. 2019); weight decay without biases and norms, and the clipped gradient, are those of
# Hugging Face's trainer. Unlike there, the learning rate decays by a cosine. The usual 3 to 4 epochs stop regrouping
# early; ten at 5e-5 are as long, in the sum of learning rates, as the 20 at 2e-5 that Mosbach et al. (2021) recommend
# for data sets of some thousand examples. configs/README.md has what was measured.
_TRAINER: Mapping[str, Any] = {"train.optimizer": "adamw", "train.decay_all": False, "train.clip_norm": 1.0}
BERT_FINETUNING: Mapping[str, Any] = {
    **_TRAINER,
    "model.name": "bert",
    "train.lr": 5e-5,
    "train.weight_decay": 0.01,
    "train.batch_size": 32,
    "train.epochs": 10,
    "train.warmup_percent": 10.0,
}
TEXT_FINETUNING: Mapping[str, Any] = {
    **BERT_FINETUNING,
    "model.name": "pretrained",
    "model.checkpoint": "bert-base-uncased",
}
# AdamW with layer decay 0.75 and weight decay 0.05 is how vision transformers are fine-tuned (BEiT, Bao et al. 2022;
# MAE, He et al. 2022, with 5e-4 for a batch of 256).
IMAGE_FINETUNING: Mapping[str, Any] = {
    **_TRAINER,
    "model.name": "pretrained",
    "model.checkpoint": "efficientnet-lite0",
    "model.dropout": 0.0,
    "data.image_size": AUTO,
    "train.lr": 5e-4,
    "train.weight_decay": 0.05,
    "train.layer_decay": 0.75,
    "train.batch_size": 64,
    "train.epochs": 10,
    "train.warmup_percent": 10.0,
}


# Values of model.name that read the features of an encoder.
FROZEN = ("linear", "mlp")
# Measured in configs/README.md. Longer training overfits features of 1,280 values; shorter starves many pseudo-classes.
HEAD_TRAINING: Mapping[str, Any] = {
    "model.name": "mlp",
    "train.optimizer": "adamw",
    "train.lr": 2e-3,
    "train.weight_decay": 0.01,
    "train.batch_size": 128,
    "train.epochs": 10,
    "train.checkpoint_percent": 100.0,  # it trains for seconds
}


# Grids for `sweep()` of a config file

# The paper's number of groups: n_c / n_min in every class.
RATIO: Grid = {"regroup.rule": ("ratio",), "regroup.threshold": (0,)}
# For custom data. The paper searches 200 to 700 examples; doubling covers classes from a hundred to some thousand
# examples. Points that split no class equal CE.
CUSTOM_GRID: Grid = {
    "regroup.rule": ("ratio", "target"),
    "regroup.threshold": (50, 100, 200, 400, 800, 1600),
}


def points(*regrouping: Grid, methods: Sequence[str] = tuple(METHODS)) -> Iterator[Point]:
    """The points of each method's own grid, or of `regrouping` if it regroups."""
    for name in methods:
        for fields in combinations(*regrouping) if METHODS[name].regroups else combinations(METHODS[name].grid):
            yield {"method": name} | fields


def ablations(*regrouping: Grid, variants: Sequence[str] = tuple(VARIANTS)) -> Iterator[Point]:
    """Variants of RG: other groups, features (the paper's figures 8 a, b) or counts."""
    for variant in variants:
        given = VARIANTS[variant].get("regroup.clustering") == "given"  # whatever the rule asks for
        for method in _COUNTING if "loss.stats" in VARIANTS[variant] else ("rg",):
            for fields in combinations({}) if given else combinations(*regrouping):
                yield {"method": method, "variant": variant} | fields


def binary_sweep(thresholds: Sequence[int], *, variants: Sequence[str] = tuple(VARIANTS)) -> Iterator[Point]:
    """All methods and ablations for two classes, with `RATIO` and rule "target"."""
    # With two classes, rule "ratio" makes the same groups at every threshold.
    grid = {"regroup.rule": ("target",), "regroup.threshold": thresholds}
    yield from points(RATIO, grid)
    yield from ablations(RATIO, grid, variants=variants)


def combinations(*grids: Grid) -> Iterator[Point]:
    """All combinations of one value for each field, grid after grid."""
    for grid in grids:
        for values in product(*grid.values()):
            yield dict(zip(grid, values, strict=True))
