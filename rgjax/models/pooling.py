"""Pooling: from the hidden states of tokens to a vector for each sentence.

A folder of sentence-transformers (Reimers & Gurevych 2019) says how; for all others it is the mean.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rgjax.errors import UserError, unknown
from rgjax.models.packing import Packed, first_tokens, mean_tokens, to_sentences
from rgjax.models.pretrained import Checkpoint

# Files of a checkpoint's folder that say how its sentences are pooled.
MODULES, POOLING, LENGTH = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
SENTENCE_FILES = (MODULES, POOLING, LENGTH)


def max_tokens(hidden: jax.Array, packed: Packed) -> jax.Array:
    """The largest value of each feature among a sentence's tokens: [B, D]."""
    sentences = to_sentences(hidden, packed)
    inside = jnp.arange(sentences.shape[1], dtype=jnp.int32)[None] < packed.lengths[:, None]
    return jnp.where(inside[:, :, None], sentences, -jnp.inf).max(axis=1)


def mean_sqrt_tokens(hidden: jax.Array, packed: Packed) -> jax.Array:
    """The sum of a sentence's n hidden states, divided by the root of n: [B, D]."""
    return mean_tokens(hidden, packed) * jnp.sqrt(packed.lengths.astype(jnp.float32))[:, None]


def weighted_mean_tokens(hidden: jax.Array, packed: Packed) -> jax.Array:
    """The mean in which the token at place i, from 1, has weight i: [B, D]."""
    lengths = packed.lengths.astype(jnp.float32)
    weights = (packed.positions + 1).astype(jnp.float32)[:, None] * 2
    return mean_tokens(hidden * weights, packed) / (lengths + 1)[:, None]


def last_tokens(hidden: jax.Array, packed: Packed) -> jax.Array:
    """Hidden state [B, D] of each sentence's last token."""
    sentences = to_sentences(hidden, packed)
    is_last = jnp.arange(sentences.shape[1], dtype=jnp.int32)[None] == packed.lengths[:, None] - 1
    return jnp.where(is_last[:, :, None], sentences, jnp.zeros((), hidden.dtype)).sum(axis=1)


# By their names in sentence-transformers, in the order in which it joins the vectors of several.
POOLINGS: Mapping[str, Callable[[jax.Array, Packed], jax.Array]] = {
    "cls": first_tokens,
    "max": max_tokens,
    "mean": mean_tokens,
    "mean_sqrt_len_tokens": mean_sqrt_tokens,
    "weightedmean": weighted_mean_tokens,
    "lasttoken": last_tokens,
}


@dataclass(frozen=True)
class Pooling:
    """How a folder wants its sentences read and pooled.

    Attributes:
        names: keys of `POOLINGS`, whose vectors are joined.
        unit_length: the vector is then scaled to length 1.
    """

    names: tuple[str, ...] = ("mean",)
    unit_length: bool = False

    def __call__(self, hidden: jax.Array, packed: Packed) -> jax.Array:
        """Hidden states [P, D] to vectors [B, D * names], float32."""
        hidden = hidden.astype(jnp.float32)
        vectors = jnp.concatenate([POOLINGS[name](hidden, packed) for name in self.names], axis=1)
        if not self.unit_length:
            return vectors
        return vectors * jax.lax.rsqrt(jnp.maximum((vectors * vectors).sum(axis=1, keepdims=True), 1e-24))


class TextBackbone(nnx.Module):
    """What text networks have in common: features are their hidden states, pooled.

    A network has `words` [V, D] and `pooling`, and is called as `(packed, key) -> hidden states [P, D]`; a key enables
    dropout.
    """

    words: nnx.Param
    pooling: Pooling

    @property
    def width(self) -> int:
        return self.words.shape[1] * len(self.pooling.names)

    def features(self, packed: Packed, *, train: bool = False, key=None) -> jax.Array:
        """The pooled hidden states of each sentence: [B, width], float32."""
        return self.pooling(self(packed, key if train else None), packed)


def sentence_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a checkpoint's folder wants its sentences read and pooled.

    Returns:
        "pooling": its `Pooling`, else the mean; "cut": tokens at which it cuts sentences, or None; "lower_case":
        whether they are put in lower case first.

    Raises:
        UserError: for modules of sentence-transformers that rgjax lacks, and for unknown poolings.
    """
    modules = _modules(checkpoint)
    pools = "Pooling" in modules if modules else checkpoint.file(POOLING) is not None
    pooling = Pooling(_names(checkpoint) if pools else ("mean",), unit_length="Normalize" in modules)
    reading = checkpoint.json(LENGTH) if checkpoint.file(LENGTH) else {}
    cut, lower_case = reading.get("max_seq_length"), reading.get("do_lower_case", False)
    if not isinstance(cut, int | None) or (cut or 3) < 3 or not isinstance(lower_case, bool):
        raise UserError(
            f"checkpoint {checkpoint.name}: {LENGTH} has max_seq_length={cut!r}, do_lower_case={lower_case!r}"
        )
    return {"pooling": pooling, "cut": cut, "lower_case": lower_case}


def _modules(checkpoint: Checkpoint) -> list[str]:
    """The kinds of the modules that sentence-transformers would apply, in their order."""
    path = checkpoint.file(MODULES)
    if path is None:
        return []
    try:
        modules = [(module["type"].rpartition(".")[2], module["path"]) for module in json.loads(path.read_bytes())]
        if not modules:
            raise ValueError("it names none")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no list of modules with type and path") from error
    places = {"Transformer": "", "Pooling": POOLING.partition("/")[0]}
    for kind, place in modules:
        if kind not in (*places, "Normalize") or place != places.get(kind, place):
            raise UserError(
                f"checkpoint {checkpoint.name}: {MODULES} asks for {kind} in '{place}'; rgjax applies Transformer in "
                f"the folder itself, Pooling in {places['Pooling']} and Normalize"
            )
    return [kind for kind, _ in modules]


def _names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The poolings in 1_Pooling/config.json: a switch for each, or of late a list."""
    values = checkpoint.json(POOLING)
    switches = [name for name, value in values.items() if name.startswith(_SWITCH) and value]
    names = [_SWITCHES.get(name, name.removeprefix(_SWITCH)) for name in switches]
    if mode := values.get("pooling_mode"):
        names = mode if isinstance(mode, list) else [mode]
    for name in names or ["none"]:
        if not isinstance(name, str) or name not in POOLINGS:
            raise unknown(f"pooling in {POOLING} of checkpoint {checkpoint.name}", str(name), POOLINGS)
    return tuple(name for name in POOLINGS if name in names)


_SWITCH = "pooling_mode_"
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}  # the others have the name itself
