"""The settings of a run, their defaults and limits, the methods and their grids.

The files in `configs/` change some defaults; the command line overrides both. Choices are literals here, so that this
module imports no networks or data; tests/test_config.py compares them with the registries.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from typing import Any, TypeAlias

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from rgjax.console import local_path
from rgjax.errors import UserError, unknown

MAX_INT32 = 2**31 - 1  # limit of counts and seeds, because devices count in 32 bits
AUTO = "auto"  # in the place of a number that the data decide
CUSTOM = ("images", "text")  # custom data sets, which are identified by their path
CUSTOM_MIN_SIZE = 8  # regroup.min_size for them; the paper has none. rgjax/regroup/README.md has the measurements

Config: TypeAlias = Any  # a ConfigDict, whose fields are known only at run time
Point: TypeAlias = dict[str, Any]  # of a grid: the `method`, optionally its `variant`, and the fields that it sets


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        default: the default value; None means unset, and `kind` is then the type of a value.
        help: one line for `--help`.
        low, high: the limits of a number, inclusive.
        choices: the valid strings.
        several: the value is a comma-separated list of choices.
        automatic: `AUTO` is valid in the place of a number.
        traced: a compiled program takes the value as an argument, so that trials with different values share it.
        identity: runs with different values are different runs; not so for paths, trackers and failure policy.
    """

    default: Any
    help: str
    kind: type = object
    low: float | None = None
    high: float | None = None
    choices: Sequence[str] | None = None
    several: bool = False
    automatic: bool = False
    traced: bool = False
    identity: bool = True

    def __post_init__(self):
        if self.default is not None:
            object.__setattr__(self, "kind", type(self.default))

    def accepts(self, value: Any) -> bool:
        """Whether the value has the field's type; an integer is a valid float."""
        if value is None:
            return self.default is None
        if value == AUTO and self.automatic:
            return True
        if isinstance(value, bool):
            return self.kind is bool
        return isinstance(value, (int, float) if self.kind is float else self.kind)


def _count(default: int | None, help: str, low: int = 1, high: int = MAX_INT32, **flags: Any) -> Field:
    return Field(default, help, int, low=low, high=high, **flags)


def _choice(default: str, help: str, *choices: str, **flags: Any) -> Field:
    return Field(default, help, choices=choices, **flags)


def _duration(name: str, help: str, *, percent: float | None = None) -> dict[str, Field]:
    """A duration as three fields, of which one is set: steps, epochs or percent."""
    return {
        f"{name}_steps": _count(None, f"{help}, in steps"),
        f"{name}_epochs": Field(None, f"{help}, in epochs", float, low=0, high=1_000_000),
        f"{name}_percent": Field(percent, f"{help}, in % of training", float, low=0, high=100),
    }


FIELDS: dict[str, Field] = {
    "method": Field("rg", "name of the method that set the fields below"),
    "seed": _count(0, "seed of training: weights, batches, augmentation", low=0, traced=True),
    "population": _count(1, "train this seed and the next ones as one program: how many", high=1024),
    "trackers": _choice(
        "tensorboard",
        "where metrics go beside metrics.jsonl, by commas (empty: nowhere)",
        *("tensorboard", "wandb"),
        several=True,
        identity=False,
    ),
    "data.name": _choice("digits", "data set", "digits", "ham10000", "cifar100", "phrasebank", "images", "text"),
    "data.manual_dir": Field("", "folder of a download; images, text: folder or table of your data", identity=False),
    "data.columns": Field("", "custom tables: columns by role, e.g. text:sentence,label:class,group:patient"),
    "data.unreadable": _choice("stop", "images and rows that cannot be read: stop, or skip them", "stop", "skip"),
    "data.data_dir": Field("", "folder of prepared data sets; empty: TFDS's", identity=False),
    "data.agreement": _choice(
        "50agree", "phrasebank: share of annotators who agree", "50agree", "66agree", "75agree", "allagree"
    ),
    "data.max_length": _count(
        64,
        "tokens at which texts are cut; auto: the smallest multiple of 64 that covers 99 % of the training texts, if "
        "the network reads as many",
        low=3,
        high=8192,
        automatic=True,
    ),
    "data.image_size": _count(32, "side of the square images, pixels", low=8, high=1024),
    "data.split": _choice(
        "stratified",
        "by example, by group, or the official test set; auto: official, else grouped, where there is one",
        *("stratified", "grouped", "official", "auto"),
    ),
    "data.test_fraction": Field(0.2, "share of the examples held out for the test", low=0.01, high=0.9),
    "data.val_fraction": Field(0.2, "share of the remaining examples held out for validation", low=0.01, high=0.9),
    "data.positive": Field("", "one class against the rest; empty: all classes"),
    "data.seed": _count(0, "seed of the split", low=0),
    "data.placement": _choice(
        "auto",
        "inputs resident on the devices, or streamed from the host; auto: streamed above half of the memory",
        *("auto", "device", "stream"),
        identity=False,
    ),
    "data.flip": Field(True, "augment by random horizontal flips", traced=True),
    "data.rotation": Field(15.0, "augment by random rotations of up to so many degrees", low=0, high=180, traced=True),
    "encoder.name": _choice(
        "auto",
        "features that are clustered; auto: clip for images, bert for text",
        *("auto", "clip", "bert", "projection", "checkpoint"),
    ),
    "encoder.checkpoint": Field(
        "",
        "clip, bert: folder or hub name[@revision] of the weights (empty: openai/clip-vit-base-patch32, "
        "bert-base-uncased, at pinned commits); checkpoint: workdir of a finished run",
    ),
    "encoder.pooling": _choice("mean", "bert: mean of the tokens, or the first one, [CLS]", "mean", "cls"),
    "encoder.unit_length": Field(True, "clip: scale the features to length 1"),
    "encoder.seed": _count(0, "seed of the untrained network of 'projection'", low=0),
    "regroup.clustering": _choice(
        "kmeans", "how classes are split; none: not at all", "none", "kmeans", "balanced", "spectral", "random"
    ),
    "regroup.rule": _choice(
        "ratio", "ratio: n_c / n_min groups above the threshold; target: n_c / threshold", "ratio", "target"
    ),
    "regroup.threshold": _count(0, "ratio: largest class that is left whole; target: size of a group", low=0),
    "regroup.aggregate": _choice("max", "how pseudo-class logits become class logits", "max", "sum"),
    "regroup.n_init": _count(10, "restarts of K-means", high=1000),
    "regroup.min_size": _count(0, "least size of a group; smaller ones are merged (0: any; balanced: equal)", low=0),
    "regroup.seed": _count(0, "seed of the clustering", low=0),
    "sampler": _choice(
        "none",
        "over- or undersampling; deepsmote: synthetic images, all held in memory",
        *("none", "ros", "rus", "rusc", "deepsmote"),
    ),
    "deepsmote.epochs": _count(300, "passes of the autoencoder over the training set", high=1_000_000),
    "deepsmote.batch_size": _count(128, "examples per step of the autoencoder", low=2),
    "deepsmote.latent": _count(512, "length of its codes", high=65536),
    "deepsmote.width": _count(16, "channels of its first layer, doubled by each further one", high=1024),
    "deepsmote.penalty": Field(
        0.1, "weight of decoding an image from the code of another of its class; 1 halves the contrast", low=0, high=100
    ),
    # British spelling, as in the config.json files of earlier versions.
    "deepsmote.neighbours": _count(5, "nearest neighbors that SMOTE interpolates to", high=1000),
    "loss.name": _choice("ce", "loss", "ce", "wce", "focal", "ldam", "la"),
    "loss.gamma": Field(2.0, "focal: focusing exponent", low=0, high=20, traced=True),
    "loss.tau": Field(1.0, "la: strength of the adjustment", low=0, high=20, traced=True),
    "loss.posthoc": Field(False, "la: train with ce and adjust at test time instead"),
    "loss.max_m": Field(0.5, "ldam: margin of the smallest class", low=0, high=100, traced=True),
    "loss.s": Field(30.0, "ldam: scale of the logits", low=1e-3, high=1000, traced=True),
    "loss.stats": _choice("pseudo", "whose counts set weights, priors and margins", "pseudo", "class"),
    **_duration("loss.drw_start", "deferred re-weighting: when it starts (unset: never)"),
    "model.name": _choice("resnet34", "network", "resnet10", "resnet18", "resnet34", "bert"),
    "model.checkpoint": Field("", "bert: folder or hub name[@revision] of the weights (empty: bert-base-uncased)"),
    "model.dropout": Field(0.1, "bert: dropout of hidden states and attention, in steps of 1/256", low=0, high=0.9),
    "model.unroll": Field(False, "bert: compile its layers one after the other instead of as a loop"),
    "model.stem": _choice("imagenet", "7x7 stride 2 with pooling, or 3x3 for small images", "imagenet", "cifar"),
    "model.head": _choice("auto", "auto: cosine for ldam, else linear", "auto", "linear", "cosine"),
    "model.width": _count(64, "channels of the first stage", high=1024),
    "model.batch_norm": _choice(
        "global", "statistics of the whole batch, or of each device's part of it", "global", "local"
    ),
    "model.recompute": _choice(
        "auto",
        "ResNets: store less for the gradient and recompute it (an A100 at 224 pixels: 20 % less memory, 6 % more "
        "traffic); auto: on TPUs, where it adds no traffic",
        *("auto", "yes", "no"),
    ),
    "model.dtype": _choice("auto", "compute precision; auto: bfloat16 on accelerators", "auto", "float32", "bfloat16"),
    "train.epochs": _count(400, "passes over as many examples as the training set has", high=1_000_000),
    "train.steps": _count(None, "optimizer steps, instead of epochs"),
    "train.batch_size": _count(256, "examples per step", low=2),
    "train.optimizer": _choice("sgd", "optimizer", "sgd", "adamw"),
    "train.lr": Field(0.01, "peak learning rate, decayed to 0 by a cosine", low=0, high=100, traced=True),
    "train.momentum": Field(0.9, "sgd: momentum; adamw: beta1", low=0, high=0.9999, traced=True),
    "train.weight_decay": Field(5e-4, "weight decay, of all parameters", low=0, high=1, traced=True),
    **_duration("train.warmup", "linear warm-up (unset: none)"),
    "train.epoch_size": _choice(
        "data", "examples per epoch: the data's, for equal steps in all methods, or the sampler's", "data", "sampler"
    ),
    **_duration("train.eval", "validation interval", percent=10.0),
    **_duration("train.checkpoint", "checkpoint interval", percent=10.0),
    "train.steps_per_call": _count(
        None, "steps per device call (unset: about two seconds; with several processes, an epoch)"
    ),
    "train.on_nan": _choice(
        "stop",
        "when a loss or gradient is not finite: stop the run, or skip the step",
        "stop",
        "skip",
        identity=False,
    ),
}

# Runs that differ only in these train as one program.
TRACED = tuple(name for name, setting in FIELDS.items() if setting.traced)
# Excluded from the identity of a run: paths, trackers, failure policy (a run stopped by a fault has no result).
NON_IDENTITY_FIELDS = tuple(name for name, setting in FIELDS.items() if not setting.identity)


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
ENCODERS = {"images": ("clip", "projection"), "sentences": ("bert",)}
TEXT_METHODS = tuple(name for name, method in METHODS.items() if not method.images_only)

# Fields that a variant of a method sets, which the command line cannot override. Tables and folders show its name.
VARIANTS: dict[str, Point] = {
    "random groups": {"regroup.clustering": "random"},
    "balanced K-means": {"regroup.clustering": "balanced"},
    "normalised cut": {"regroup.clustering": "spectral"},  # British spelling, as in the folders of earlier sweeps
    "random projection": {"encoder.name": "projection"},
}

# The paper does not say how it fine-tunes. Learning rate, batch size, epochs and warm-up are those usual for BERT
# (Devlin et al. 2019). Unlike there, the learning rate decays by a cosine, all parameters have weight decay, and
# gradients are not clipped.
BERT_FINETUNING: Mapping[str, Any] = {
    "model.name": "bert",
    "train.optimizer": "adamw",
    "train.lr": 2e-5,
    "train.weight_decay": 0.01,
    "train.batch_size": 32,
    "train.epochs": 4,
    "train.warmup_percent": 10.0,
}


def method_config(method: str, changes: Mapping[str, Any]) -> Config:
    """Make a locked config: defaults, then `changes`, then the method's settings."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    values = {name: setting.default for name, setting in FIELDS.items()}
    values |= {"method": method, "regroup.clustering": "none", **changes, **METHODS[method].settings}
    tree: dict[str, Any] = {}
    for name, value in values.items():
        if name not in FIELDS:
            raise unknown("field", name, FIELDS)
        *sections, leaf = name.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        if FIELDS[name].automatic:
            value = FieldReference(value, field_type=object)  # a number or a word
        section[leaf] = placeholder(FIELDS[name].kind) if value is None else value
    return ConfigDict(tree).lock()


def recorded_config(values: Mapping[str, Any]) -> Config:
    """The config in a config.json; fields that it lacks get their defaults."""
    config = method_config("ce", {})
    with config.unlocked(), config.ignore_type():
        config.update(values)
    return config


def value_of(config: Config, name: str) -> Any:
    return reduce(lambda tree, part: tree[part], name.split("."), config)


def identity(config: Config) -> dict[str, Any]:
    """The fields that identify a run: all but paths, trackers and failure policy.

    Custom data add their path. `config` may also be the content of an older config.json: fields that it lacks are None.
    """

    def recorded(name: str) -> Any:
        return reduce(lambda tree, part: (tree or {}).get(part), name.split("."), config)

    values = {name: recorded(name) for name in FIELDS if FIELDS[name].identity}
    if values["data.name"] in CUSTOM and (place := recorded("data.manual_dir")):
        values["data.manual_dir"] = os.path.abspath(local_path(place))
    if not values["data.columns"]:  # so that runs of versions without this field keep their names
        del values["data.columns"]
    return values


def validate(config: Config) -> None:
    """Raise UserError for the first field whose value is invalid."""
    for name, setting in FIELDS.items():
        try:
            value = value_of(config, name)
        except (KeyError, TypeError) as error:
            raise UserError(f"config.{name}: missing; make the config by rgjax.config.method_config") from error
        _validate_field(name, setting, value)
    if config.regroup.rule == "target" and config.regroup.threshold < 1:
        raise UserError(
            f"config.regroup.threshold={config.regroup.threshold}: config.regroup.rule=target needs a group size of at "
            "least 1"
        )


def _validate_field(name: str, setting: Field, value: Any) -> None:
    if not setting.accepts(value):
        word = f", or '{AUTO}'" if setting.automatic else ""
        raise UserError(f"config.{name}={value!r}: must be of type {setting.kind.__name__}{word}")
    if value is None or (setting.automatic and isinstance(value, str)):  # a string is AUTO, as it was accepted
        return
    if setting.choices is not None:
        for choice in comma_list(value) if setting.several else [value]:
            if choice not in setting.choices:
                raise unknown(f"value of config.{name}", str(choice), setting.choices)
    below = setting.low is not None and not value >= setting.low
    above = setting.high is not None and not value <= setting.high
    if below or above:
        low = "" if setting.low is None else f"at least {setting.low:.12g}"
        high = "" if setting.high is None else f"at most {setting.high:.12g}"
        raise UserError(f"config.{name}={value}: out of range; must be {' and '.join(filter(None, (low, high)))}")


def comma_list(names: str) -> list[str]:
    """The names in a comma-separated list, without duplicates."""
    return list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))


# Grids for `sweep()` of a config file


def points(regrouping: Mapping[str, Sequence], *, methods: Sequence[str] = tuple(METHODS)) -> Iterator[Point]:
    """The points of each method's own grid, or of `regrouping` if it regroups."""
    for name in methods:
        for fields in combinations(regrouping if METHODS[name].regroups else METHODS[name].grid):
            yield {"method": name} | fields


def ablations(regrouping: Mapping[str, Sequence], *, variants: Sequence[str] = tuple(VARIANTS)) -> Iterator[Point]:
    """Variants of RG with other groups or features (the paper's figures 8 a and b)."""
    for variant in variants:
        for fields in combinations(regrouping):
            yield {"method": "rg", "variant": variant} | fields


def binary_sweep(thresholds: Sequence[int], *, variants: Sequence[str] = tuple(VARIANTS)) -> Iterator[Point]:
    """All methods and ablations for two classes, with rule "target"."""
    # With two classes, rule "ratio" makes the same groups at every threshold.
    grid = {"regroup.rule": ("target",), "regroup.threshold": thresholds}
    yield from points(grid)
    yield from ablations(grid, variants=variants)


def combinations(grid: Mapping[str, Sequence]) -> Iterator[Point]:
    """All combinations of one value for each field."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
