"""Makes networks and their tokenizers from the config's section `model`."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.config import FROZEN
from rgjax.errors import UserError
from rgjax.models.bert import Bert, BertClassifier, bert_config
from rgjax.models.frozen import FeatureClassifier, Standardization
from rgjax.models.layers import BatchNorm, widen
from rgjax.models.packing import prepare_tokens
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint, Tensors
from rgjax.models.resnet import Numerics, ResNet
from rgjax.models.tokenizer import FILES, WordPieces
from rgjax.sharding import AXIS

Network: TypeAlias = ResNet | BertClassifier | FeatureClassifier

# What a run keeps of a BERT checkpoint, in a folder of this name: all but the weights, which its own state replaces.
PRETRAINED, PRETRAINED_FILES = "pretrained", ("config.json", *FILES)


def make_model(
    config: Any,
    outputs: int,
    *,
    head: str,
    seed: int,
    platform: str | None = None,
    checkpoint: Checkpoint | None = None,
    standardization: Standardization | None = None,
) -> Network:
    """The network before training.

    Args:
        config: the section `model`.
        outputs: number of pseudo-classes; the head is padded to `padded(outputs)`.
        head: the head that the loss needs, for `config.head=auto`.
        seed: seed of the initial weights.
        platform: where it will run; JAX's default backend if None.
        checkpoint: pretrained weights of BERT; those that the config names if None.
        standardization: of the features that "linear" and "mlp" read.

    Raises:
        UserError: for a checkpoint that is unavailable, corrupted or of another architecture.
    """
    platform = platform or jax.default_backend()
    head = head if config.head == "auto" else config.head
    dtype, rng = compute_dtype(config, platform), np.random.default_rng(seed)
    if config.name == "bert":
        checkpoint = checkpoint or bert_checkpoint(config)
        settings = bert_config(checkpoint)

        def classifier(tensors: Tensors) -> BertClassifier:
            bert = Bert(tensors, settings, dropout=config.dropout, unroll=config.unroll, dtype=dtype)
            return BertClassifier(bert, tensors, outputs, head=head, rng=rng)

        network = checkpoint.build(classifier)
    elif config.name in FROZEN:
        if standardization is None:
            raise ValueError(f"model.name={config.name} needs the standardization of its features")
        hidden = config.hidden if config.name == "mlp" else 0
        how = {"hidden": hidden, "head": head, "dropout": config.dropout, "dtype": dtype, "rng": rng}
        network = FeatureClassifier(standardization, outputs, **how)
    else:
        numerics = Numerics(
            norm=partial(BatchNorm, axis=AXIS, local=config.batch_norm == "local"),
            recompute=config.recompute == "yes" or (config.recompute == "auto" and platform == "tpu"),
            dtype=dtype,
        )
        how = {"stem": config.stem, "width": config.width, "numerics": numerics}
        network = ResNet(config.name, outputs, head=head, rng=rng, **how)
    widen(network.head, padded(outputs))
    return network


def padded(outputs: int) -> int:
    """The output width: a multiple of 128, so that runs share one compiled program."""
    return -(-outputs // 128) * 128


def compute_dtype(config: Any, platform: str) -> jnp.dtype:
    """The dtype of activations; "auto" is float32 on CPUs and bfloat16 elsewhere."""
    automatic = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(automatic if config.dtype == "auto" else config.dtype)


def bert_checkpoint(config: Any) -> Checkpoint:
    """The pretrained weights that `model.name=bert` starts from."""
    return Checkpoint(config.checkpoint or DEFAULT_BERT, ways_out="a local folder (--config.model.checkpoint=FOLDER)")


def word_pieces(checkpoint: Checkpoint, max_length: int | None) -> WordPieces:
    """The tokenizer of a BERT checkpoint; None cuts at what the network reads."""
    return WordPieces(checkpoint, bert_config(checkpoint), max_length)


def reads_text(config: Any, inputs: np.ndarray) -> bool:
    """Whether the network reads sentences. Raises UserError for other inputs."""
    text, name = inputs.ndim == 1, config.name
    if name in FROZEN:
        return False  # but features, of any inputs
    if text != (name == "bert"):
        kind, name_for_kind = ("sentences", "bert") if text else ("images", "resnet34")
        raise UserError(f"config.model.name={name}: cannot read {kind}; use --config.model.name={name_for_kind}")
    return text


def input_kind(config: Any) -> str:
    """The kind of inputs that the network reads.

    "images", "sentences" or "features".
    """
    if config.name in FROZEN:
        return "features"
    return "sentences" if config.name == "bert" else "images"


def packing(tokens: int) -> Callable:
    """Packing for batches of up to `tokens` tokens.

    Rounded up to a multiple of 64, so that most seeds and methods share a program.
    """
    return partial(prepare_tokens, budget=-(-int(tokens) // 64) * 64)
