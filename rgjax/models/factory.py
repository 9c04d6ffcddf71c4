"""Networks and their inputs from the config's section `model`."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.errors import UserError
from rgjax.models.layers import BatchNorm, widen
from rgjax.models.packing import prepare_tokens
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint
from rgjax.models.resnet import ResNet
from rgjax.models.tokenizer import Tokens, WordPieces, tokenize
from rgjax.models.transformer import BertClassifier, bert_config
from rgjax.sharding import AXIS

Network: TypeAlias = ResNet | BertClassifier


def make_model(
    config: Any,
    outputs: int,
    *,
    head: str,
    seed: int,
    platform: str | None = None,
    checkpoint: Checkpoint | None = None,
) -> Network:
    """The network before training.

    Args:
        config: the section `model`.
        outputs: pseudo-classes; the head has them rounded up by `padded`.
        head: the loss's head, for `config.head=auto`.
        seed: of the initial weights.
        platform: where it will run; JAX's default backend if None.
        checkpoint: what BERT is built from; the config's if None.
    """
    platform = platform or jax.default_backend()
    head = head if config.head == "auto" else config.head
    dtype, rng = compute_dtype(config, platform), np.random.default_rng(seed)
    if config.name == "bert":
        checkpoint = checkpoint or bert_checkpoint(config)
        settings = bert_config(checkpoint)
        how = {"head": head, "dropout": config.dropout, "unroll": config.unroll, "dtype": dtype, "rng": rng}
        network = checkpoint.build(lambda tensors: BertClassifier(tensors, settings, outputs, **how))
    else:
        network = ResNet(
            config.name,
            outputs,
            stem=config.stem,
            head=head,
            width=config.width,
            norm=partial(BatchNorm, axis=AXIS, local=config.batch_norm == "local"),
            recompute=config.recompute == "yes" or (config.recompute == "auto" and platform == "tpu"),
            dtype=dtype,
            rng=rng,
        )
    widen(network.head, padded(outputs))
    return network


def padded(outputs: int) -> int:
    """The output width, rounded up to a multiple of 128 so that runs share one compiled program."""
    return -(-outputs // 128) * 128


def compute_dtype(config: Any, platform: str) -> jnp.dtype:
    automatic = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(automatic if config.dtype == "auto" else config.dtype)


def bert_checkpoint(config: Any) -> Checkpoint:
    return Checkpoint(config.checkpoint or DEFAULT_BERT, ways_out="a local folder (--config.model.checkpoint=FOLDER)")


def network_inputs(config: Any, inputs: np.ndarray, max_length: int) -> np.ndarray | Tokens:
    """A data set's inputs as the network reads them: images as they are, sentences as tokens."""
    if not reads_text(config, inputs):
        return inputs
    checkpoint = bert_checkpoint(config)
    checkpoint.weight_files()  # found missing now, not after the encoder's long work
    return tokenize(checkpoint, bert_config(checkpoint), inputs, max_length)


def word_pieces(config: Any, max_length: int) -> WordPieces:
    """The tokenizer of a network that reads sentences."""
    checkpoint = bert_checkpoint(config)
    return WordPieces(checkpoint, bert_config(checkpoint), max_length)


def reads_text(config: Any, inputs: np.ndarray) -> bool:
    """Whether the network reads sentences. Raises UserError where the inputs are not of its kind."""
    text, name = inputs.ndim == 1, config.name
    if text != (name == "bert"):
        kind, fitting = ("sentences", "bert") if text else ("images", "resnet34")
        raise UserError(f"config.model.name={name}: does not read {kind}; use --config.model.name={fitting}")
    return text


def input_kind(config: Any) -> str:
    """What the network reads: "images" or "sentences"."""
    return "sentences" if config.name == "bert" else "images"


def packing(tokens: int) -> Callable:
    """The preparation of batches of at most `tokens`, rounded up so that seeds and methods mostly share a program."""
    return partial(prepare_tokens, budget=-(-int(tokens) // 64) * 64)
