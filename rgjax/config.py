"""Every setting of a run: its default, its meaning and its limits, in one table.

The files in `configs/` name what differs from these defaults; the command line overrides both.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rgjax.balance.samplers import SAMPLERS
from rgjax.data import OWN, SOURCES
from rgjax.data.phrasebank import AGREEMENTS
from rgjax.data.splits import SPLITS
from rgjax.encoders.bert import POOLINGS
from rgjax.errors import UserError, unknown
from rgjax.losses import LOSSES
from rgjax.models.layers import HEADS
from rgjax.models.resnet import STAGES, STEMS
from rgjax.regroup import AGGREGATIONS, CLUSTERINGS, RULES
from rgjax.storage import local
from rgjax.trackers import TRACKERS, split
from rgjax.training.optimizer import OPTIMIZERS

ENCODERS = ("auto", "clip", "bert", "projection", "checkpoint")

MOST = 2**31 - 1  # of a count or a seed: devices count in 32 bits

Config: TypeAlias = Any  # a ConfigDict: its fields are known at run time alone


@dataclass(frozen=True)
class Field:
    """One setting. `default` may be a type: then the setting is unset until it is given."""

    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: Iterable[str] | None = None
    several: bool = False  # any number of the choices, by commas

    @property
    def kind(self) -> type:
        return self.default if isinstance(self.default, type) else type(self.default)

    def takes(self, value: Any) -> bool:
        """Whether the value is of the field's type; a whole number also serves where a fraction may stand."""
        if value is None:
            return isinstance(self.default, type)
        if isinstance(value, bool):
            return self.kind is bool
        return isinstance(value, (int, float) if self.kind is float else self.kind)


def _duration(name: str, help: str, **defaults: float) -> dict[str, Field]:
    """A length of training, given in steps, in epochs or as a percentage of all steps; one of the three."""
    return {
        f"{name}_steps": Field(defaults.get("steps", int), f"{help}, in steps", low=1, high=MOST),
        f"{name}_epochs": Field(defaults.get("epochs", float), f"{help}, in epochs", low=0, high=1_000_000),
        f"{name}_percent": Field(defaults.get("percent", float), f"{help}, in % of training", low=0, high=100),
    }


FIELDS: dict[str, Field] = {
    "method": Field("rg", "name of the method that set the fields below"),
    "seed": Field(0, "seed of training: weights, batches, augmentation", low=0, high=MOST),
    "population": Field(1, "runs with this seed and the next ones, trained as one program", low=1, high=1024),
    "trackers": Field(
        "tensorboard",
        "where metrics go beside metrics.jsonl, by commas (empty: nowhere)",
        choices=TRACKERS,
        several=True,
    ),
    "data.name": Field("digits", "data set", choices=SOURCES),
    "data.manual_dir": Field("", "folder of your own download; images, text: folder or table of your own data"),
    "data.unreadable": Field(
        "stop", "images: those that cannot be read end the run, or are left out", choices=("stop", "skip")
    ),
    "data.data_dir": Field("", "folder of prepared data sets; empty: TFDS's"),
    "data.agreement": Field("50agree", "phrasebank: share of annotators who agree", choices=AGREEMENTS),
    "data.max_length": Field(64, "tokens at which sentences are cut", low=3, high=8192),
    "data.image_size": Field(32, "side of the square images, pixels", low=8, high=1024),
    "data.split": Field(
        "stratified",
        "by single row, by group, or the official test set; auto: official, else grouped, where there is such",
        choices=SPLITS,
    ),
    "data.test_fraction": Field(0.2, "share of the rows held out for the test", low=0.01, high=0.9),
    "data.val_fraction": Field(0.2, "share of the remaining rows held out for validation", low=0.01, high=0.9),
    "data.positive": Field("", "one class against the rest; empty: all classes"),
    "data.seed": Field(0, "seed of the split", low=0, high=MOST),
    "data.placement": Field(
        "auto",
        "all inputs on the devices, or streamed from the host; auto: streamed where they would take more than half of "
        "the memory",
        choices=("auto", "device", "stream"),
    ),
    "data.flip": Field(True, "augment by random horizontal flips"),
    "data.rotation": Field(15.0, "augment by random rotations of up to this many degrees", low=0, high=180),
    "encoder.name": Field(
        "auto", "features that the groups are made from; auto: clip for images, bert for text", choices=ENCODERS
    ),
    "encoder.checkpoint": Field(
        "",
        "clip, bert: folder or hub name[@revision] of the weights (empty: openai/clip-vit-base-patch32, "
        "bert-base-uncased, at the commits of rgjax.hub.PINNED); "
        "checkpoint: workdir of a finished run",
    ),
    "encoder.pooling": Field("mean", "bert: mean of the tokens, or the first, [CLS]", choices=POOLINGS),
    "encoder.unit_length": Field(True, "clip: scale the features to length 1"),
    "encoder.seed": Field(0, "seed of the untrained network of 'projection'", low=0, high=MOST),
    "regroup.clustering": Field("kmeans", "how classes are split; none: not at all", choices=CLUSTERINGS),
    "regroup.rule": Field(
        "ratio", "ratio: n_c / n_min groups above the threshold; target: n_c / threshold", choices=RULES
    ),
    "regroup.threshold": Field(
        0, "rows: smallest class that is regrouped, or size aimed at (target)", low=0, high=MOST
    ),
    "regroup.aggregate": Field("max", "how pseudo-class logits become class logits", choices=AGGREGATIONS),
    "regroup.n_init": Field(10, "restarts of K-means", low=1, high=1000),
    "regroup.min_size": Field(0, "balanced: rows that a group has at least (0: equal sizes)", low=0, high=MOST),
    "regroup.seed": Field(0, "seed of the clustering", low=0, high=MOST),
    "sampler": Field(
        "none", "over- or undersampling; deepsmote: synthetic images, all held in memory", choices=SAMPLERS
    ),
    "deepsmote.epochs": Field(300, "passes of the autoencoder over the training rows", low=1, high=1_000_000),
    "deepsmote.batch_size": Field(128, "rows a step of the autoencoder", low=2, high=MOST),
    "deepsmote.latent": Field(512, "length of its codes", low=1, high=65536),
    "deepsmote.width": Field(16, "channels of its first layer, doubled by each further one", low=1, high=1024),
    "deepsmote.penalty": Field(
        0.1, "weight of decoding an image from the code of another of its class; 1 halves the contrast", low=0, high=100
    ),
    "deepsmote.neighbours": Field(5, "nearest neighbours that SMOTE draws from", low=1, high=1000),
    "loss.name": Field("ce", "loss", choices=LOSSES),
    "loss.gamma": Field(2.0, "focal: focusing exponent", low=0, high=20),
    "loss.tau": Field(1.0, "la: strength of the adjustment", low=0, high=20),
    "loss.posthoc": Field(False, "la: train with ce and adjust at test time instead"),
    "loss.max_m": Field(0.5, "ldam: margin of the smallest class", low=0, high=100),
    "loss.s": Field(30.0, "ldam: scale of the logits", low=1e-3, high=1000),
    "loss.stats": Field(
        "pseudo",
        "counts behind weights, priors, margins: pseudo-classes' or classes'",
        choices=("pseudo", "class"),
    ),
    **_duration("loss.drw_start", "deferred re-weighting: where it sets in (unset: off)"),
    "model.name": Field("resnet34", "network", choices=(*STAGES, "bert")),
    "model.checkpoint": Field("", "bert: folder or hub name[@revision] of the weights (empty: bert-base-uncased)"),
    "model.dropout": Field(0.1, "bert: dropout of hidden states and attention, in steps of 1/256", low=0, high=0.9),
    "model.unroll": Field(False, "bert: compile its layers in a row instead of one in a loop"),
    "model.stem": Field("imagenet", "7x7 stride 2 with pooling, or 3x3 for small images", choices=STEMS),
    "model.head": Field("auto", "auto: cosine for ldam, else linear", choices=("auto", *HEADS)),
    "model.width": Field(64, "channels of the first stage", low=1, high=1024),
    "model.batch_norm": Field(
        "global",
        "statistics of the whole batch, or of each device's part of it",
        choices=("global", "local"),
    ),
    "model.recompute": Field(
        "auto",
        "ResNets: keep less for the gradient and compute it again (an A100 at 224 pixels: 20 % less memory, 6 % more "
        "traffic); auto: on TPUs, where it adds none",
        choices=("auto", "yes", "no"),
    ),
    "model.dtype": Field(
        "auto", "compute precision; auto: bfloat16 on accelerators", choices=("auto", "float32", "bfloat16")
    ),
    "train.epochs": Field(400, "passes over as many rows as the training set has", low=1, high=1_000_000),
    "train.steps": Field(int, "optimiser steps, instead of epochs", low=1, high=MOST),
    "train.batch_size": Field(256, "rows a step", low=2, high=MOST),
    "train.optimizer": Field("sgd", "optimiser", choices=OPTIMIZERS),
    "train.lr": Field(0.01, "peak learning rate, decayed to 0 by a cosine", low=0, high=100),
    "train.momentum": Field(0.9, "sgd: momentum; adamw: beta1", low=0, high=0.9999),
    "train.weight_decay": Field(5e-4, "weight decay, of all parameters", low=0, high=1),
    **_duration("train.warmup", "linear warm-up (unset: none)"),
    "train.epoch_size": Field(
        "data",
        "rows an epoch: the data's, for equal steps in all methods, or the sampler's",
        choices=("data", "sampler"),
    ),
    **_duration("train.eval", "validation every so often", percent=10.0),
    **_duration("train.checkpoint", "checkpoint every so often", percent=10.0),
    "train.steps_per_call": Field(
        int,
        "steps in one call of the device (unset: about two seconds, of several processes an epoch)",
        low=1,
        high=MOST,
    ),
    "train.on_nan": Field(
        "stop", "a step whose loss or gradient is not finite ends the run, or is left out", choices=("stop", "skip")
    ),
}

# Runs that differ in these alone can be trained as one program, which reads their values as it runs.
TRACED = (
    "seed",
    "data.flip",
    "data.rotation",
    "loss.gamma",
    "loss.tau",
    "loss.max_m",
    "loss.s",
    "train.lr",
    "train.momentum",
    "train.weight_decay",
)

# No part of what a run is: where things lie, who is told of it, and what becomes of a fault (a run that it stops has no
# result that could differ).
CIRCUMSTANCES = ("data.manual_dir", "data.data_dir", "data.placement", "trackers", "train.on_nan")

# A method is a composition of a regrouping, a sampler and a loss.
METHODS: dict[str, dict[str, str]] = {
    "ce": {},
    "wce": {"loss.name": "wce"},
    "focal": {"loss.name": "focal"},
    "ldam": {"loss.name": "ldam"},
    "la": {"loss.name": "la"},
    "ros": {"sampler": "ros"},
    "rus": {"sampler": "rus"},
    "rusc": {"sampler": "rusc"},
    "dsmt": {"sampler": "deepsmote"},
    "rg": {"regroup.clustering": "kmeans"},
    "rg_wce": {"regroup.clustering": "kmeans", "loss.name": "wce"},
    "rg_focal": {"regroup.clustering": "kmeans", "loss.name": "focal"},
    "rg_ldam": {"regroup.clustering": "kmeans", "loss.name": "ldam"},
    "rg_la": {"regroup.clustering": "kmeans", "loss.name": "la"},
}


def method_config(method: str, changes: Mapping[str, Any]) -> Config:
    """The defaults with `changes` (field -> value) and then the method's own choices, locked."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    values = {name: field.default for name, field in FIELDS.items()}
    values |= {"method": method, "regroup.clustering": "none", **changes, **METHODS[method]}
    tree: dict[str, Any] = {}
    for name, value in values.items():
        if name not in FIELDS:
            raise unknown("field", name, FIELDS)
        *groups, leaf = name.split(".")
        group = tree
        for part in groups:
            group = group.setdefault(part, {})
        group[leaf] = placeholder(value) if isinstance(value, type) else value
    return ConfigDict(tree).lock()


def recorded_config(values: Mapping[str, Any]) -> Config:
    """The config of a config.json; a field that an older version did not have has its default."""
    config = method_config("ce", {})
    with config.unlocked(), config.ignore_type():
        config.update(values)
    return config


def value_of(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def identity(config: Config) -> dict[str, Any]:
    """What makes a run this run: the value of every field, but for those that say where things lie and go. Of someone's
    own data, whose name says nothing, the place counts.

    `config` may also be the content of a config.json of an older version: what it lacks is None.
    """

    def held(name: str) -> Any:
        return reduce(lambda tree, part: (tree or {}).get(part), name.split("."), config)

    values = {name: held(name) for name in FIELDS if name not in CIRCUMSTANCES}
    if values["data.name"] in OWN and (place := held("data.manual_dir")):  # all that tells them apart
        values["data.manual_dir"] = os.path.abspath(local(place))
    return values


def validate(config: Config) -> None:
    """Raise UserError at the first setting that is not among its choices or is out of range."""
    for name, field in FIELDS.items():
        try:
            value = value_of(config, name)
        except (KeyError, TypeError) as error:
            raise UserError(f"the config has no field '{name}': make it by rgjax.config.method_config") from error
        if not field.takes(value):
            raise UserError(f"config.{name}={value!r} must be of type {field.kind.__name__}")
        if value is None:
            continue
        if field.choices is not None:
            for choice in split(value) if field.several else [value]:
                if choice not in field.choices:
                    raise unknown(f"value of config.{name}", str(choice), field.choices)
        below = field.low is not None and not value >= field.low
        above = field.high is not None and not value <= field.high
        if below or above:
            low = "" if field.low is None else f"at least {field.low:.12g}"
            high = "" if field.high is None else f"at most {field.high:.12g}"
            raise UserError(
                f"config.{name}={value} is out of range: it must be {' and '.join(filter(None, (low, high)))}"
            )
    if config.regroup.rule == "target" and config.regroup.threshold < 1:
        raise UserError("config.regroup.rule=target needs config.regroup.threshold of at least 1, the rows aimed at")


def duration(
    config: Config, name: str, *, total_steps: int, steps_per_epoch: int, whole_epochs: bool = False
) -> int | None:
    """The duration called `name` (e.g. "train.eval") in steps, at least 1; None where it is unset.

    Steps overrule epochs, and epochs a percentage, which is rounded up to whole epochs if so wished.
    """
    steps, epochs, percent = (value_of(config, f"{name}_{unit}") for unit in ("steps", "epochs", "percent"))
    if steps is not None:
        return steps
    if epochs is not None:
        return max(1, round(epochs * steps_per_epoch))
    if percent is not None:
        steps = int(percent / 100 * total_steps)
        return max(1, -(-steps // steps_per_epoch)) * steps_per_epoch if whole_epochs else max(1, steps)
    return None


def describe() -> str:
    """All methods and settings, for `--help`."""
    lines = [
        "Methods: " + " ".join(METHODS),
        "",
        "Settings (--config.NAME=VALUE; a config file changes some defaults):",
        "",
    ]
    for name, field in FIELDS.items():
        default = "unset" if isinstance(field.default, type) else repr(field.default)
        choices = f" [{', '.join(field.choices)}]" if field.choices is not None else ""
        lines.append(f"  {name:<26} {default:<12} {field.help}{choices}")
    return "\n".join(lines)
