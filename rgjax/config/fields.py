"""The settings of a run: their defaults, limits and one line of help each.

The files in `configs/` change some defaults; the command line overrides both. Choices are literals here, so that this
module imports no networks or data; tests/test_config.py compares them with the registries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_INT32 = 2**31 - 1  # limit of counts and seeds, because devices count in 32 bits
MAX_LAYERS = 1000  # limit of a transformer's layers in a turn of the loop over them
AUTO = "auto"  # in the place of a number that the data decide
CUSTOM = ("images", "text", "features")  # custom data sets, which are identified by their path
TEXT_DATA = ("phrasebank", "text")  # the values of data.name whose inputs are sentences


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
        task: it chooses or labels the training examples of a data set.
        identity: runs with different values are different runs; not so for paths, trackers and failure policy.
        late: added when runs existed, which keep their names: at its default it is no part of the identity.
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
    task: bool = False
    identity: bool = True
    late: bool = False

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
    "method": Field("rg", "name of the method that set the fields below", traced=True),
    "seed": _count(0, "seed of training: weights, batches, augmentation", low=0, traced=True),
    "population": _count(1, "train this seed and the next ones as one program: how many", high=1024),
    "trackers": _choice(
        "tensorboard",
        "where metrics go beside metrics.jsonl, by commas (empty: nowhere)",
        *("tensorboard", "wandb"),
        several=True,
        identity=False,
    ),
    "data.name": _choice(
        "digits", "data set", "digits", "ham10000", "cifar100", "phrasebank", "images", "text", "features"
    ),
    "data.manual_dir": Field("", "folder of a download; images, text: folder or table of your data", identity=False),
    "data.columns": Field(
        "", "custom tables: columns by role, e.g. text:sentence,label:class,group:patient", late=True
    ),
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
    "data.image_size": _count(
        32, "side of the square images, pixels; auto: that of the pretrained network", low=8, high=1024, automatic=True
    ),
    "data.interpolation": _choice(
        "auto",
        "how pictures are resized; auto: as the pretrained network expects, else bilinear",
        *("auto", "bilinear", "bicubic", "lanczos"),
        late=True,
    ),
    "data.split": _choice(
        "stratified",
        "by example, by group, or the official test set; auto: official, else grouped, where there is one",
        *("stratified", "grouped", "official", "auto"),
    ),
    "data.test_fraction": Field(0.2, "share of the examples held out for the test", low=0.01, high=0.9),
    "data.folds": _count(
        None,
        "cross-validation: disjoint test sets, one in each fold, in the place of data.test_fraction",
        low=2,
        high=1000,
        task=True,
        late=True,
    ),
    "data.fold": _count(0, "the fold that is tested, from 0", low=0, task=True, late=True),
    "data.val_fraction": Field(0.2, "share of the remaining examples held out for validation", low=0.01, high=0.9),
    "data.positive": Field("", "one class against the rest; empty: all classes"),
    "data.seed": _count(0, "seed of the split, or of the folds", low=0, task=True),
    "data.placement": _choice(
        "auto",
        "inputs resident on the devices, or streamed from the host; auto: streamed above half of the memory",
        *("auto", "device", "stream"),
        identity=False,
    ),
    "data.flip": Field(True, "augment by random horizontal flips", traced=True),
    "data.rotation": Field(15.0, "augment by random rotations of up to so many degrees", low=0, high=180, traced=True),
    "data.color_jitter": Field(
        0.0,
        "augment by random brightness, contrast and saturation, of 1 - s to 1 + s times the image's",
        low=0,
        high=1,
        traced=True,
        late=True,
    ),
    "encoder.name": _choice(
        "auto",
        "features that are clustered; auto: clip for images, bert for text; pretrained: any network of "
        "encoder.checkpoint; checkpoint: a finished run; file: your features",
        *("auto", "pretrained", "projection", "checkpoint", "file", "clip", "bert"),
    ),
    "encoder.checkpoint": Field(
        "",
        "clip, bert: folder or hub name[@revision] of the weights (empty: openai/clip-vit-base-patch32, "
        "bert-base-uncased, at pinned commits); checkpoint: workdir of a finished run",
    ),
    "encoder.image_size": _count(
        None,
        "side of the pictures that a pretrained network sees, pixels (unset: its own)",
        low=8,
        high=1024,
        late=True,
    ),
    "encoder.pooling": _choice(
        "auto",
        "text: from tokens to one vector, such as their mean or the first one, [CLS]; auto: as the checkpoint's folder "
        "says, else the mean",
        *("auto", "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
    ),
    "encoder.dtype": _choice(
        "auto",
        "compute precision of clip, bert and pretrained; auto: bfloat16 on accelerators",
        *("auto", "float32", "bfloat16"),
        late=True,
    ),
    "encoder.unit_length": Field(True, "clip: scale the features to length 1"),
    "encoder.seed": _count(0, "seed of the untrained network of 'projection'", low=0),
    "regroup.clustering": _choice(
        "kmeans",
        "how classes are split; none: not at all; given: by the data",
        "none",
        "kmeans",
        "balanced",
        "spectral",
        "random",
        "given",
        task=True,
    ),
    "regroup.rule": _choice(
        "ratio",
        "groups of a class; ratio: n_c / n_min above the threshold; target: n_c / max(threshold, n_min)",
        *("ratio", "target"),
        task=True,
    ),
    "regroup.threshold": _count(
        0, "ratio: largest class that is left whole; target: size of a group", low=0, task=True
    ),
    "regroup.aggregate": _choice("max", "how pseudo-class logits become class logits", "max", "sum", task=True),
    "regroup.n_init": _count(10, "restarts of K-means", high=1000, task=True),
    "regroup.min_size": _count(
        0,
        "least size of a group; smaller ones are merged (0: any; auto: half of the smallest class, at least 8; with "
        "both, balanced: equal)",
        low=0,
        automatic=True,
        task=True,
    ),
    "regroup.seed": _count(0, "seed of the clustering", low=0, task=True),
    "sampler": _choice(
        "none",
        "over- or undersampling; deepsmote: synthetic images, all held in memory",
        *("none", "ros", "rus", "rusc", "deepsmote"),
        task=True,
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
    "loss.stats": _choice(
        "class",
        "whose counts set weights, priors and margins: the class's, so that classes are balanced, or the "
        "pseudo-class's",
        *("class", "pseudo"),
        traced=True,
    ),
    **_duration("loss.drw_start", "deferred re-weighting: when it starts (unset: never)"),
    "model.name": _choice(
        "resnet34",
        "network; pretrained: any of model.checkpoint; linear, mlp: a head on the encoder's features; images from "
        "scratch: the others",
        *("resnet10", "resnet18", "resnet34", "efficientnet-lite0", "efficientnet-lite2"),
        *("bert", "pretrained", "linear", "mlp"),
    ),
    "model.checkpoint": Field(
        "",
        "bert, pretrained: folder or hub name[@revision] of the weights, or efficientnet-lite0 (empty, for bert: "
        "bert-base-uncased)",
    ),
    "model.hidden": _count(128, "mlp: units of its hidden layer", high=65536, late=True),
    "model.dropout": Field(
        0.1,
        "all but ResNets and linear: dropout of hidden states, attention and features, in steps of 1/256",
        low=0,
        high=0.9,
    ),
    "model.unroll": Field(False, "transformers: compile all layers one after the other instead of as a loop"),
    "model.unroll_layers": _count(
        0,
        "transformers: layers that one turn of this loop compiles one after the other (0: 3 on GPUs, all in a sweep "
        "there, 1 elsewhere)",
        low=0,
        high=MAX_LAYERS,
        identity=False,
    ),
    "model.stem": _choice("imagenet", "7x7 stride 2 with pooling, or 3x3 for small images", "imagenet", "cifar"),
    "model.head": _choice("auto", "auto: cosine for ldam, else linear", "auto", "linear", "cosine"),
    "model.width": _count(64, "channels of the first stage", high=1024),
    "model.batch_norm": _choice(
        "global", "statistics of the whole batch, or, as in torch's DDP, of each device's part of it", "global", "local"
    ),
    "model.recompute": _choice(
        "auto",
        "ResNets: store less for the gradient and recompute it (an A100 at 224 pixels: 20 % less memory, 6 % more "
        "traffic); auto: on TPUs, where it adds no traffic",
        *("auto", "yes", "no"),
    ),
    "model.dtype": _choice(
        "auto", "precision; auto: bfloat16 where an accelerator has it", "auto", "float32", "bfloat16"
    ),
    "decision.costs": Field(
        "",
        "CSV or JSON file: cost of each true class (rows) predicted as each class (columns); the tuned decision "
        "minimizes their mean on validation (empty: it maximizes BA)",
        late=True,
    ),
    "decision.min_recall": Field(
        "", "recalls that the tuned decision must reach on validation, e.g. mel:0.9,bcc:0.8 (empty: none)", late=True
    ),
    "train.epochs": _count(400, "passes over as many examples as the training set has", high=1_000_000),
    "train.steps": _count(None, "optimizer steps, instead of epochs"),
    "train.batch_size": _count(256, "examples per step", low=2),
    "train.optimizer": _choice("sgd", "optimizer", "sgd", "adamw"),
    "train.lr": Field(0.01, "peak learning rate, decayed to 0 by a cosine", low=0, high=100, traced=True),
    "train.momentum": Field(0.9, "sgd: momentum; adamw: beta1", low=0, high=0.9999, traced=True),
    "train.weight_decay": Field(5e-4, "weight decay", low=0, high=1, traced=True),
    "train.decay_all": Field(True, "weight decay also of biases and normalizations", late=True),
    "train.layer_decay": Field(
        1.0, "pretrained: learning rate of each layer, as a multiple of the next one's", low=0.1, high=1, late=True
    ),
    "train.head_lr": Field(
        1.0, "pretrained: learning rate of the head, as a multiple of train.lr", low=1e-3, high=1000, late=True
    ),
    "train.head_only_percent": Field(
        0.0, "pretrained: share of training in which the head alone learns, in %", low=0, high=100, late=True
    ),
    "train.clip_norm": Field(0.0, "largest norm of the gradient (0: no limit)", low=0, high=1e6, late=True),
    **_duration("train.warmup", "linear warm-up (unset: none)"),
    "train.epoch_size": _choice(
        "data", "examples per epoch: the data's, for equal steps in all methods, or the sampler's", "data", "sampler"
    ),
    **_duration("train.eval", "validation interval", percent=10.0),
    **_duration("train.checkpoint", "checkpoint interval, by default also 30 s or more", percent=10.0),
    "train.steps_per_call": _count(
        None, "steps per device call (unset: about two seconds; with several processes, an epoch)"
    ),
    "train.deterministic": _choice(
        "auto",
        "GPUs, the same bits in every run: auto: no kernels that add in an order that varies; on: nor any timing of "
        "kernels by XLA (which versions since jax 0.10 leave out with auto too); off: the fastest kernels",
        *("auto", "on", "off"),
        late=True,
    ),
    "train.on_nan": _choice(
        "stop",
        "when a loss or gradient is not finite: stop the run, or skip the step",
        "stop",
        "skip",
        identity=False,
    ),
}

# Excluded from the identity of a run: paths, trackers, failure policy (a run stopped by a fault has no result).
NON_IDENTITY_FIELDS = tuple(name for name, setting in FIELDS.items() if not setting.identity)
