"""BERT (Devlin et al. 2019) and its classifier, on packed text (packing.py).

Hidden states are [P, D], without padding. Parameters are float32; `dtype` is that of activations.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.kernels.embedding import lookup
from rgjax.models.layers import new_head
from rgjax.models.packing import Packed, first_tokens
from rgjax.models.pooling import Pooling, TextBackbone
from rgjax.models.pretrained import Checkpoint, Tensors, settings
from rgjax.models.transformer import (
    BERT_LAYER,
    LayerNames,
    LayerNorm,
    Layers,
    checked,
    dropout,
    other_architecture,
    shape_of,
)


@dataclass(frozen=True)
class Layout:
    """How the families of BERT's kind differ in their tensors.

    Attributes:
        layers: name of the list of layers.
        layer: names within a layer.
        types: there are embeddings of token types.
        relative: name of the attention bias by relative positions, which all layers share; None if there is none.
    """

    layers: str = "encoder.layer"
    layer: LayerNames = BERT_LAYER
    types: bool = True
    relative: str | None = None


class Bert(TextBackbone):
    """BERT or its like, without a pooler: Packed -> hidden states [P, D] in `dtype`."""

    def __init__(
        self,
        tensors: Tensors,
        config: dict[str, Any],
        layout: Layout = Layout(),
        *,
        dropout: float = 0.0,
        unroll: bool | int = False,
        dtype=jnp.float32,
    ):
        shape, width = shape_of(config), config["hidden_size"]
        tensors = tensors.below("embeddings.word_embeddings.weight")
        table = tensors.at("embeddings")
        self.words = nnx.Param(jnp.asarray(table.take("word_embeddings.weight", (config["vocab_size"], width))))
        first = config.get("first_position", 0)
        count = first + config["max_position_embeddings"]
        self.positions = nnx.Param(jnp.asarray(table.take("position_embeddings.weight", (count, width))[first:]))
        if layout.types:
            types = table.take("token_type_embeddings.weight", (config["type_vocab_size"], width))
            self.types = nnx.Param(jnp.asarray(types))
        self.norm = LayerNorm(table.at("LayerNorm"), width, shape.epsilon)
        layers = tensors.layers(layout.layers, shape.layers)
        self.layers = Layers(layers, shape, layout.layer, pre_norm=False, dropout=dropout, unroll=unroll)
        self.relative = _relative(
            tensors, layout.relative, (config.get("relative_attention_num_buckets", 32), shape.heads)
        )
        self.pooling, self.dropout, self.dtype = config.get("pooling", Pooling()), dropout, dtype

    def __call__(self, packed: Packed, key=None):
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        positions = self.positions[...]
        if hasattr(self, "types"):
            positions = positions + self.types[:1]  # all tokens have type 0
        x = self.norm(lookup(self.words[...], packed.ids) + lookup(positions, packed.positions))
        bias = None if self.relative is None else relative_bias(self.relative[...], packed.row_indices.shape[1])
        return self.layers(dropout(x.astype(self.dtype), self.dropout, keys[0]), packed, keys[1], bias)


def _relative(tensors: Tensors, name: str | None, shape: tuple[int, int]) -> nnx.Param | None:
    return nnx.Param(jnp.asarray(tensors.take(name, shape))) if name else None


def relative_bias(table, tokens: int):
    """MPNet's attention bias by the distance of two tokens (Raffel et al. 2020).

    Distances below 8 have a bucket each in `table` [buckets, heads]; larger ones, up to 128, share eight that grow
    with the distance. Keys after the query have 16 other buckets.

    Returns:
        [1, heads, tokens, tokens], float32.
    """
    places = jnp.arange(tokens, dtype=jnp.int32)
    ahead = places[None] - places[:, None]
    distance = jnp.abs(ahead)
    shared = jnp.asarray(_BUCKETS, jnp.int32)
    grown = jnp.searchsorted(shared, distance, side="right", method="compare_all").astype(jnp.int32)
    buckets = jnp.where(distance < 8, distance, 7 + grown) + jnp.where(ahead > 0, 16, 0)
    return jnp.moveaxis(lookup(table, buckets), 2, 0)[None]


_BUCKETS = (8, 12, 16, 23, 32, 46, 64, 91)  # the shortest distance in each shared bucket: 8 * 16^(i / 8), rounded up


class BertClassifier(nnx.Module):
    """BERT with its pooler and a new head: Packed -> logits [B, classes] in float32.

    A checkpoint without a pooler gets one drawn from N(0, 0.02^2), as in Hugging Face's sequence classifier.
    """

    def __init__(self, bert: Bert, tensors: Tensors, classes: int, *, head: str = "linear", rng: np.random.Generator):
        """Put a pooler and a head on `bert`.

        Args:
            bert: the encoder; dropout before the head has its rate.
            tensors: of its checkpoint, perhaps with a pooler.
            classes: outputs of the head.
            head: a key of `HEADS`.
            rng: draws the initial weights.
        """
        self.bert = bert
        width, tensors = bert.words.shape[1], tensors.below("embeddings.word_embeddings.weight")
        if tensors.has("pooler.dense.weight"):
            kernel = tensors.take("pooler.dense.weight", (width, width)).T
            bias = tensors.take("pooler.dense.bias", (width,))
        else:
            kernel = 0.02 * rng.standard_normal((width, width), np.float32)
            bias = np.zeros(width, np.float32)
        self.pooler_kernel, self.pooler_bias = nnx.Param(jnp.asarray(kernel)), nnx.Param(jnp.asarray(bias))
        self.head = new_head(head, width, classes, rng=rng)
        self.dropout = bert.dropout

    def features(self, packed: Packed, *, key=None):
        """The pooled state of [CLS], which the head reads: [B, D] in float32."""
        first = first_tokens(self.bert(packed, key), packed).astype(jnp.float32)
        return jnp.tanh(first @ self.pooler_kernel[...] + self.pooler_bias[...][None])

    def __call__(self, packed: Packed, *, train: bool = False, key=None):
        keys = tuple(jax.random.split(key)) if train and key is not None else (None, None)
        return self.head(dropout(self.features(packed, key=keys[0]), self.dropout, keys[1]))


BERT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def bert_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a BERT checkpoint.

    Raises UserError for another architecture or impossible values.
    """
    values = checkpoint.json("config.json")
    if values.get("model_type") != "bert" or values.get("position_embedding_type", "absolute") != "absolute":
        raise other_architecture(checkpoint, values, "BERT (model_type bert, absolute positions)")
    return checked(settings(values, BERT_DEFAULTS, checkpoint.name), checkpoint)
