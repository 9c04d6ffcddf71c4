"""BERT (Devlin et al. 2019) and CLIP's vision transformer (Radford et al. 2021).

Both are a stack of encoder layers. Constructors read a checkpoint's tensors by their Hugging Face names. Layers are
stacked along a first axis and scanned, which halves the compile time of twelve layers; `unroll` compiles them one after
the other. Parameters are float32; `dtype` is that of activations. Text is packed (packing.py): hidden states are [P,
D], without padding.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.errors import UserError, unknown
from rgjax.models.layers import HEADS
from rgjax.models.packing import Packed, first_tokens, gather_rows
from rgjax.models.pretrained import Checkpoint, Tensors, settings


@dataclass(frozen=True)
class Shape:
    """Sizes of a stack of encoder layers, from config.json."""

    width: int
    layers: int
    heads: int
    inner: int
    activation: str
    epsilon: float


_ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}

# Names within a layer: query, key, value, output; attention's norm, the two products of the MLP, its norm.
_BERT_LAYER = (
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)
_CLIP_LAYER = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    ("layer_norm1", "mlp.fc1", "mlp.fc2", "layer_norm2"),
)


class Dense(nnx.Module):
    """`x W + b`: [..., width] -> [..., outputs of all names, concatenated]."""

    def __init__(self, tensors: Tensors, names: tuple[str, ...], width: int, outputs: int, *, bias: bool = True):
        kernels = [np.swapaxes(tensors.take(f"{name}.weight", (outputs, width)), -1, -2) for name in names]
        self.kernel = nnx.Param(jnp.asarray(np.concatenate(kernels, axis=-1)))
        biases = [tensors.take(f"{name}.bias", (outputs,)) for name in names if bias]
        self.bias = nnx.Param(jnp.asarray(np.concatenate(biases, axis=-1))) if bias else None

    def __call__(self, x):
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + _as_row(self.bias[...].astype(x.dtype), y)


class LayerNorm(nnx.Module):
    """Layer normalization (Ba et al. 2016) in float32, with the two-pass variance."""

    def __init__(self, tensors: Tensors, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.asarray(tensors.take("weight", (width,))))
        self.bias = nnx.Param(jnp.asarray(tensors.take("bias", (width,))))
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + self.epsilon)
        return (y * _as_row(self.scale[...], y) + _as_row(self.bias[...], y)).astype(x.dtype)


class Layers(nnx.Module):
    """A stack of encoder layers: BERT's, or with normalization first, CLIP's."""

    def __init__(self, tensors: Tensors, shape: Shape, *, pre_norm: bool, dropout: float = 0.0, unroll: bool = False):
        (query, key, value, output), (norm1, mlp1, mlp2, norm2) = _CLIP_LAYER if pre_norm else _BERT_LAYER
        self.qkv = Dense(tensors, (query, key, value), shape.width, shape.width)
        self.output = Dense(tensors, (output,), shape.width, shape.width)
        self.norm1 = LayerNorm(tensors.at(norm1), shape.width, shape.epsilon)
        self.mlp1 = Dense(tensors, (mlp1,), shape.width, shape.inner)
        self.mlp2 = Dense(tensors, (mlp2,), shape.inner, shape.width)
        self.norm2 = LayerNorm(tensors.at(norm2), shape.width, shape.epsilon)
        self.shape, self.pre_norm, self.dropout, self.unroll = shape, pre_norm, dropout, unroll

    def __call__(self, x, packed: Packed | None = None, key=None):
        """Hidden states after all layers; `x` is [P, D] with `packed`, else [B, T, D].

        A `key` enables dropout.
        """
        graph, stacked = nnx.split(self)
        keys = None if key is None else jax.random.split(key, self.shape.layers)

        def layer(x, scanned):
            params, key = scanned
            return nnx.merge(graph, params)._layer(x, packed, key), None

        return jax.lax.scan(layer, x, (stacked, keys), unroll=self.unroll)[0]

    def _layer(self, x, packed, key):
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        # Recomputed in the backward pass, which would else keep four times the size of its input.
        activation = jax.checkpoint(_ACTIVATIONS[self.shape.activation])
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), packed, keys[0])
            return x + self.mlp2(activation(self.mlp1(self.norm2(x))))
        x = self.norm1(x + dropout(self._attend(x, packed, keys[0]), self.dropout, keys[1]))
        return self.norm2(x + dropout(self.mlp2(activation(self.mlp1(x))), self.dropout, keys[2]))

    def _attend(self, x, packed, key):
        qkv = self.qkv(x)
        if packed is not None:
            qkv = gather_rows(qkv, packed.row_indices)
        batch, longest, _ = qkv.shape
        query, keys, values = jnp.moveaxis(qkv.reshape(batch, longest, 3, self.shape.heads, -1), 2, 0)
        lengths = None if packed is None else packed.lengths
        y = attention(query, keys, values, lengths, self.dropout, key).reshape(batch, longest, -1)
        if packed is not None:
            y = gather_rows(y.reshape(batch * longest, -1), packed.padded_indices)
        return self.output(y)


def attention(query, key, value, lengths, rate: float, dropout_key):
    """Scaled dot-product attention; without dropout, by JAX's function.

    Args:
        query, key, value: [B, T, heads, d].
        lengths: of the sentences [B]; keys beyond them are masked. None: all of T.
        rate: of dropout on the attention weights.
        dropout_key: PRNG key; None disables dropout.

    Returns:
        [B, T, heads, d] in the dtype of `value`.
    """
    if dropout_key is None or not rate:
        # cuDNN's kernel is for 16-bit floats, and has no gradient for an odd number of tokens.
        allowed = query.dtype == jnp.bfloat16 and query.shape[1] % 2 == 0 and query.shape[3] % 8 == 0
        implementation = "cudnn" if allowed and jax.default_backend() == "gpu" else "xla"
        return jax.nn.dot_product_attention(
            query, key, value, key_value_seq_lengths=lengths, implementation=implementation
        )
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[3] ** -0.5
    if lengths is not None:
        inside = jnp.arange(key.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
        scores = jnp.where(inside[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores), rate, dropout_key).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def dropout(x, rate: float, key):
    """Inverted dropout, its rate rounded to 1/256; without a key, the identity.

    Each element gets one byte of a random word: a word each takes twenty times longer on a CPU, a quarter of a step.
    """
    dropped = round(rate * 256)
    if key is None or not dropped:
        return x
    words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
    bytes_ = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(bytes_ >= dropped, x * (256 / (256 - dropped)), jnp.zeros((), x.dtype))


class Bert(nnx.Module):
    """BERT without its pooler: Packed -> hidden states [P, D] in `dtype`."""

    def __init__(
        self,
        tensors: Tensors,
        config: dict[str, Any],
        *,
        dropout: float = 0.0,
        unroll: bool = False,
        dtype=jnp.float32,
    ):
        shape, width = _shape(config), config["hidden_size"]
        tensors = tensors.below("embeddings.word_embeddings.weight")
        table = tensors.at("embeddings")
        self.words = nnx.Param(jnp.asarray(table.take("word_embeddings.weight", (config["vocab_size"], width))))
        positions = table.take("position_embeddings.weight", (config["max_position_embeddings"], width))
        types = table.take("token_type_embeddings.weight", (config["type_vocab_size"], width))
        # All tokens have type 0, so its embedding is added to the positions' once, and is trained with them.
        self.positions = nnx.Param(jnp.asarray(positions + types[0]))
        self.norm = LayerNorm(table.at("LayerNorm"), width, shape.epsilon)
        layers = tensors.layers("encoder.layer", shape.layers)
        self.layers = Layers(layers, shape, pre_norm=False, dropout=dropout, unroll=unroll)
        self.dropout, self.dtype = dropout, dtype

    def __call__(self, packed: Packed, key=None):
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = self.norm(self.words[packed.ids] + self.positions[packed.positions])
        return self.layers(dropout(x.astype(self.dtype), self.dropout, keys[0]), packed, keys[1])


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
        self.head = HEADS[head](width, classes, rng=rng)
        self.dropout = bert.dropout

    def features(self, packed: Packed, *, key=None):
        """The pooled state of [CLS], which the head reads: [B, D] in float32."""
        first = first_tokens(self.bert(packed, key), packed).astype(jnp.float32)
        return jnp.tanh(first @ self.pooler_kernel[...] + self.pooler_bias[...][None])

    def __call__(self, packed: Packed, *, train: bool = False, key=None):
        keys = tuple(jax.random.split(key)) if train and key is not None else (None, None)
        return self.head(dropout(self.features(packed, key=keys[0]), self.dropout, keys[1]))


class ClipVision(nnx.Module):
    """CLIP's vision transformer: images [B, S, S, 3] -> embeddings in float32.

    Images are normalized; embeddings are [B, projection_dim]. For a checkpoint without a projection, the embedding is
    the pooled state [B, hidden_size].
    """

    def __init__(self, tensors: Tensors, config: dict[str, Any], *, dtype=jnp.float32):
        shape, width, patch = _shape(config), config["hidden_size"], config["patch_size"]
        tower = tensors.below("embeddings.class_embedding")
        table = tower.at("embeddings")
        self.cls = nnx.Param(jnp.asarray(table.take("class_embedding", (width,))))
        kernel = table.take("patch_embedding.weight", (width, 3, patch, patch)).transpose(2, 3, 1, 0)
        self.patches = nnx.Param(jnp.asarray(kernel.reshape(-1, width)))
        count = (config["image_size"] // patch) ** 2 + 1
        self.positions = nnx.Param(jnp.asarray(table.take("position_embedding.weight", (count, width))))
        self.norm_before = LayerNorm(tower.at("pre_layrnorm"), width, shape.epsilon)  # sic, in the checkpoints
        self.layers = Layers(tower.layers("encoder.layers", shape.layers), shape, pre_norm=True)
        self.norm_after = LayerNorm(tower.at("post_layernorm"), width, shape.epsilon)
        top = tensors.below("visual_projection.weight")
        self.projection = (
            Dense(top, ("visual_projection",), width, config["projection_dim"], bias=False)
            if top.has("visual_projection.weight")
            else None
        )
        self.patch, self.dtype = patch, dtype

    def hidden(self, images):
        """Hidden states of the last layer [B, 1 + patches, D], the class token first."""
        batch, height, width, channels = images.shape
        grid = images.reshape(batch, height // self.patch, self.patch, width // self.patch, self.patch, channels)
        patches = grid.swapaxes(2, 3).reshape(batch, -1, self.patches.shape[0]).astype(self.dtype)
        patches = patches @ self.patches[...].astype(self.dtype)
        cls = jnp.broadcast_to(self.cls[...].astype(self.dtype), (batch, 1, patches.shape[2]))
        x = jnp.concatenate([cls, patches], axis=1) + self.positions[...].astype(self.dtype)[None]
        return self.layers(self.norm_before(x))

    def __call__(self, images):
        pooled = self.norm_after(self.hidden(images)[:, 0].astype(jnp.float32))
        return pooled if self.projection is None else self.projection(pooled)


def _as_row(values, x):
    """`values` [D] with as many axes as `x`, for strict rank promotion."""
    return values.reshape((1,) * (x.ndim - 1) + (-1,))


_BERT_DEFAULTS = {
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
_CLIP_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
    "projection_dim": 512,
}


def bert_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a BERT checkpoint.

    Raises UserError for another architecture or impossible values.
    """
    values = checkpoint.json("config.json")
    if values.get("model_type") != "bert" or values.get("position_embedding_type", "absolute") != "absolute":
        raise _other_architecture(checkpoint, values, "BERT (model_type bert, absolute positions)")
    return _checked(settings(values, _BERT_DEFAULTS, checkpoint.name), checkpoint)


def clip_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a CLIP checkpoint's vision transformer.

    Raises UserError for another architecture or impossible values.
    """
    values = checkpoint.json("config.json")
    if values.get("model_type") not in ("clip", "clip_vision_model"):
        raise _other_architecture(checkpoint, values, "CLIP (model_type clip or clip_vision_model)")
    vision = values.get("vision_config")
    if isinstance(vision, dict):
        values = {**vision, **{k: values[k] for k in ("projection_dim",) if k in values}}
    config = _checked(settings(values, _CLIP_DEFAULTS, checkpoint.name), checkpoint)
    _require_multiple(config, "image_size", "patch_size", checkpoint)
    return config


def _other_architecture(checkpoint, values, needed):
    return UserError(
        f"checkpoint {checkpoint.name}: its architecture is {values.get('model_type')!r}; needed: {needed}"
    )


def _checked(config, checkpoint):
    if config["hidden_act"] not in _ACTIVATIONS:
        raise unknown(f"hidden_act of checkpoint {checkpoint.name}", config["hidden_act"], _ACTIVATIONS)
    _require_multiple(config, "hidden_size", "num_attention_heads", checkpoint)
    return config


def _require_multiple(config, name, divisor, checkpoint):
    if config[name] % config[divisor]:
        raise UserError(f"checkpoint {checkpoint.name}: config.json has {name} not a multiple of {divisor}")


def _shape(config: dict[str, Any]) -> Shape:
    return Shape(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
    )
