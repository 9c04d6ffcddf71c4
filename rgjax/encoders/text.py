"""Sentence features by a pretrained text network."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.encoders.encoder import Encoder, named_dtype
from rgjax.models.backbone import Options
from rgjax.models.bert import bert_config
from rgjax.models.families import FAMILIES, Pretrained
from rgjax.models.packing import pack
from rgjax.models.pooling import Pooling
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import FILES, Tokens, tokenize
from rgjax.sharding import OnDevices, in_batches, over_batches
from rgjax.storage.files import digest

_BATCH = 32  # sentences per device on CPUs
_MOST_TOKENS = 2**16  # per device on accelerators
_BUCKET, _FINE_BUCKET, _MANY = 16, 4, 4096  # tokens; the latter for so many sentences
_log = logging.getLogger(__name__)


def text_encoder(pretrained: Pretrained, *, pooling: str, max_length: int, dtype: str = "float32") -> Encoder:
    """The encoder of sentences [N] by a text network: [N, D], in float32.

    Args:
        pretrained: weights, settings and tokenizer.
        pooling: a key of `POOLINGS`, or "auto" for that of the checkpoint's folder.
        max_length: tokens at which sentences are cut; fewer, if the folder says so.
        dtype: of activations.
    """
    checkpoint, settings = pretrained.checkpoint, dict(pretrained.settings)
    if pooling != "auto":
        settings["pooling"] = replace(settings["pooling"], names=(pooling,))
    length = min(max_length, settings["cut"] or max_length)
    if length < max_length:
        _log.info(f"encoder: {checkpoint.name} asks to cut sentences at {length} tokens, not at {max_length}")

    @cache  # predictions come in chunks
    def on_all_devices() -> OnDevices:
        graph, params = nnx.split(pretrained._replace(settings=settings).build(Options(dtype=jnp.dtype(dtype))))
        return on_tokens(lambda params, packed: nnx.merge(graph, params).features(packed), params)

    def encode(sentences: np.ndarray) -> np.ndarray:
        forward = on_all_devices()  # first, as it fails for weights that do not fit
        return over_tokens(forward, tokenize(checkpoint, settings, sentences, length))

    names, unit_length = settings["pooling"].names, settings["pooling"].unit_length
    plain = settings["model_type"] == "bert" and not unit_length and not settings["lower_case"] and len(names) == 1
    version = ("bert-v1",) if plain else ("text-v1", unit_length, settings["lower_case"])  # bert-v1 is older
    key = digest(*version, checkpoint.fingerprint(*FILES), "+".join(names), length, *named_dtype(dtype))
    about = {**checkpoint.identity(), "pooling": "+".join(names), "max_length": length, "dtype": dtype}
    return Encoder(key, encode, about=about)


def bert(checkpoint: Checkpoint, *, pooling: str, max_length: int, dtype: str = "float32") -> Encoder:
    """The encoder of `encoder.name=bert`, whatever the folder says of sentences.

    "auto" is the mean.
    """
    family = FAMILIES["bert"]
    settings = bert_config(checkpoint) | {"model_type": "bert", "pooling": Pooling(), "cut": None, "lower_case": False}
    return text_encoder(Pretrained(checkpoint, family, settings), pooling=pooling, max_length=max_length, dtype=dtype)


def encode_tokens(forward: Callable, params, tokens: Tokens, *, bucket: int | None = None) -> np.ndarray:
    """Apply `forward(params, Packed)` to all sentences, as `over_tokens` does."""
    return over_tokens(on_tokens(forward, params), tokens, bucket=bucket)


def on_tokens(forward: Callable, params) -> OnDevices:
    """Compile `forward(params, Packed) -> [B, D]` as a function of Tokens."""

    def packed(params, batch):
        return forward(params, pack(batch.ids, batch.lengths, batch.ids.size))

    return OnDevices(packed, params)


def over_tokens(forward: OnDevices, tokens: Tokens, *, bucket: int | None = None) -> np.ndarray:
    """Run a network over all sentences, in batches of similar length.

    Args:
        forward: made by `on_tokens`.
        tokens: of the N sentences.
        bucket: batches are padded to a multiple of so many tokens; if None, of 16, so that few programs are compiled,
            or of 4 where so many sentences are encoded that less padding saves more time.

    Returns:
        [N, D] float32, in the order of the sentences.
    """
    distinct, same = _distinct(tokens)
    longest, bucket = tokens.ids.shape[1], bucket or (_BUCKET if len(distinct) < _MANY else _FINE_BUCKET)

    def shapes(count: int) -> Tokens:
        ids: Any = jax.ShapeDtypeStruct((count, longest), np.int32)
        lengths: Any = jax.ShapeDtypeStruct((count,), np.int32)
        return Tokens(ids, lengths)

    size = forward.batch_size(shapes, cached=_BATCH, most=max(_BATCH, _MOST_TOKENS // longest))
    order = in_batches(distinct[np.argsort(tokens.lengths[distinct], kind="stable")], size)

    def batch(indices):
        width = min(longest, -(-int(tokens.lengths[indices].max()) // bucket) * bucket)
        return Tokens(tokens.ids[indices, :width], tokens.lengths[indices])

    count = len(distinct)
    by_length = over_batches(forward, map(batch, order), what="encode", total=count, unit="sentence")
    features = np.empty((len(tokens.lengths), by_length.shape[1]), np.float32)
    features[order.ravel()[:count]] = by_length
    return features[same]


def _distinct(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Indices of distinct sentences [M], and of each sentence's equal there [N]."""
    first: dict[bytes, int] = {}
    rows = zip(tokens.ids, tokens.lengths, strict=True)
    same = np.array([first.setdefault(row[:length].tobytes(), i) for i, (row, length) in enumerate(rows)])
    return np.unique(same), same
