"""Encoder layers of transformers, which BERT and vision transformers share.

Layers are stacked along a first axis and scanned, which halves the compile time of twelve layers; `unroll` of them are
compiled one after the other. Parameters are float32; activations have the dtype of the input. Constructors read a
checkpoint's tensors by their Hugging Face names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.errors import UserError, unknown
from rgjax.models.packing import Packed, to_row, to_sentences
from rgjax.models.pretrained import Tensors


@dataclass(frozen=True)
class Shape:
    """Sizes of a stack of encoder layers, from config.json."""

    width: int
    layers: int
    heads: int
    inner: int
    activation: str
    epsilon: float
    qkv_bias: bool = True


class LayerNames(NamedTuple):
    """Names of the tensors within an encoder layer.

    Attributes:
        query, key, value, output: the products of attention.
        norm1: normalization of attention: before it with `pre_norm`, else after it.
        mlp1, mlp2: the products of the MLP.
        norm2: normalization of the MLP.
        scale1, scale2: LayerScale (Touvron et al. 2021) of attention and of the MLP; None if the family has none.
    """

    query: str
    key: str
    value: str
    output: str
    norm1: str
    mlp1: str
    mlp2: str
    norm2: str
    scale1: str | None = None
    scale2: str | None = None


BERT_LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    norm1="attention.output.LayerNorm",
    mlp1="intermediate.dense",
    mlp2="output.dense",
    norm2="output.LayerNorm",
)

_ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}
# Of two products: the gate and what it scales (Shazeer 2020). mlp1 has twice as many outputs.
_GATED = {"swiglu": lambda x: jax.nn.silu(x[..., : x.shape[-1] // 2]) * x[..., x.shape[-1] // 2 :]}


class Dense(nnx.Module):
    """`x W + b`: [..., width] -> [..., outputs of all names, concatenated]."""

    def __init__(self, tensors: Tensors, names: tuple[str, ...], width: int, outputs: int, *, bias: bool = True):
        kernels = [np.swapaxes(tensors.take(f"{name}.weight", (outputs, width)), -1, -2) for name in names]
        self.kernel = nnx.Param(jnp.asarray(np.concatenate(kernels, axis=-1)))
        biases = [tensors.take(f"{name}.bias", (outputs,)) for name in names if bias]
        self.bias = nnx.Param(jnp.asarray(np.concatenate(biases, axis=-1))) if bias else None

    def __call__(self, x):
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + as_row(self.bias[...].astype(x.dtype), y)


class LayerNorm(nnx.Module):
    """Layer normalization (Ba et al. 2016) in float32, with the two-pass variance."""

    def __init__(self, tensors: Tensors, width: int, epsilon: float, *, bias: bool = True):
        self.scale = nnx.Param(jnp.asarray(tensors.take("weight", (width,))))
        self.bias = nnx.Param(jnp.asarray(tensors.take("bias", (width,)))) if bias else None
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + self.epsilon)
        y = y * as_row(self.scale[...], y)
        return (y if self.bias is None else y + as_row(self.bias[...], y)).astype(x.dtype)


class Layers(nnx.Module):
    """A stack of encoder layers.

    They normalize after attention and the MLP, as BERT's, or before them (`pre_norm`), as CLIP's.
    """

    def __init__(
        self,
        tensors: Tensors,
        shape: Shape,
        names: LayerNames,
        *,
        pre_norm: bool,
        dropout: float = 0.0,
        unroll: bool | int = False,
    ):
        width, gated = shape.width, shape.activation in _GATED
        self.qkv = Dense(tensors, (names.query, names.key, names.value), width, width, bias=shape.qkv_bias)
        self.output = Dense(tensors, (names.output,), width, width)
        self.norm1 = LayerNorm(tensors.at(names.norm1), width, shape.epsilon)
        self.mlp1 = Dense(tensors, (names.mlp1,), width, shape.inner * (2 if gated else 1))
        self.mlp2 = Dense(tensors, (names.mlp2,), shape.inner, width)
        self.norm2 = LayerNorm(tensors.at(names.norm2), width, shape.epsilon)
        scales = [name and nnx.Param(jnp.asarray(tensors.take(name, (width,)))) for name in names[-2:]]
        self.scale1, self.scale2 = scales
        self.shape, self.pre_norm, self.dropout, self.unroll = shape, pre_norm, dropout, unroll

    def __call__(self, x, packed: Packed | None = None, key=None, bias=None):
        """Hidden states after all layers; `x` is [P, D] with `packed`, else [B, T, D].

        A `key` enables dropout; `bias` is that of `attention`.
        """
        keys = None if key is None else jax.random.split(key, self.shape.layers)
        return scan_layers(self, x, keys, lambda layer, x, key: layer._layer(x, packed, key, bias))

    def _layer(self, x, packed, key, bias):
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        if self.pre_norm:
            x = x + self._part(self._attend(self.norm1(x), packed, keys[0], bias), self.scale1, keys[1])
            return x + self._part(self._mlp(self.norm2(x)), self.scale2, keys[2])
        x = self.norm1(x + self._part(self._attend(x, packed, keys[0], bias), self.scale1, keys[1]))
        return self.norm2(x + self._part(self._mlp(x), self.scale2, keys[2]))

    def _part(self, y, scale, key):
        """What a part of the layer adds to the hidden states."""
        y = y if scale is None else y * as_row(scale[...].astype(y.dtype), y)
        return dropout(y, self.dropout, key)

    def _mlp(self, x):
        # Recomputed in the backward pass, which would else keep four times the size of its input.
        return self.mlp2(jax.checkpoint(activation(self.shape.activation))(self.mlp1(x)))

    def _attend(self, x, packed, key, bias):
        qkv = self.qkv(x)
        if packed is not None:
            qkv = to_sentences(qkv, packed)
        batch, longest, _ = qkv.shape
        query, keys, values = jnp.moveaxis(qkv.reshape(batch, longest, 3, self.shape.heads, -1), 2, 0)
        lengths = None if packed is None else packed.lengths
        y = attention(query, keys, values, lengths, self.dropout, key, bias).reshape(batch, longest, -1)
        if packed is not None:
            y = to_row(y, packed)
        return self.output(y)


def scan_layers(layers: Any, x: jax.Array, scanned: Any, apply: Callable) -> jax.Array:
    """Hidden states after all layers, `layers.unroll` of which are a turn of the loop.

    Args:
        layers: a module whose parameters are those of all layers, stacked [L, ...].
        x: hidden states before the first layer.
        scanned: what else differs by layer, arrays [L, ...].
        apply: `(layer, x, scanned of the layer) -> x`.
    """
    graph, stacked = nnx.split(layers)
    # Matrices are cast here: in the loop, the gradients of all layers would be stacked in float32.
    stacked = jax.tree.map(lambda param: param.astype(x.dtype) if param.ndim > 2 else param, stacked)

    def turn(x, scanned):
        params, scanned = scanned
        return apply(nnx.merge(graph, params), x, scanned), None

    return jax.lax.scan(turn, x, (stacked, scanned), unroll=layers.unroll)[0]


def activation(name: str) -> Callable:
    return (_ACTIVATIONS | _GATED)[name]


def attention(query, key, value, lengths, rate: float, dropout_key, bias=None):
    """Scaled dot-product attention; without dropout, by JAX's function.

    Args:
        query, key, value: [B, T, heads, d].
        lengths: of the sentences [B]; keys beyond them are masked. None: all of T.
        rate: of dropout on the attention weights.
        dropout_key: PRNG key; None disables dropout.
        bias: added to the scores, float32; [1 or B, 1 or heads, T, T].

    Returns:
        [B, T, heads, d] in the dtype of `value`.
    """
    if dropout_key is None or not rate:
        # cuDNN's kernel is for 16-bit floats and small heads, and has no gradient for an odd number of tokens.
        small = query.shape[3] % 8 == 0 and query.shape[3] <= 128
        if query.dtype == jnp.bfloat16 and query.shape[1] % 2 == 0 and small and bias is None:
            return jax.lax.platform_dependent(query, key, value, lengths, cuda=_by_cudnn, default=_by_xla)
        return _by_xla(query, key, value, lengths, bias)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[3] ** -0.5
    if bias is not None:
        scores = scores + bias
    if lengths is not None:
        inside = jnp.arange(key.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
        scores = jnp.where(inside[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores), rate, dropout_key).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _by_xla(query, key, value, lengths, bias=None):
    return jax.nn.dot_product_attention(query, key, value, bias, key_value_seq_lengths=lengths, implementation="xla")


def _by_cudnn(query, key, value, lengths):
    try:
        return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation="cudnn")
    except RuntimeError:  # cuDNN is not installed
        return _by_xla(query, key, value, lengths)


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


def as_row(values, x):
    """`values` [D] with as many axes as `x`, for strict rank promotion."""
    return values.reshape((1,) * (x.ndim - 1) + (-1,))


def other_architecture(checkpoint, values, needed):
    return UserError(
        f"checkpoint {checkpoint.name}: its architecture is {values.get('model_type')!r}; needed: {needed}"
    )


def checked(config, checkpoint):
    if config["hidden_act"] not in _ACTIVATIONS:
        raise unknown(f"hidden_act of checkpoint {checkpoint.name}", config["hidden_act"], _ACTIVATIONS)
    require_multiple(config, "hidden_size", "num_attention_heads", checkpoint)
    return config


def require_multiple(config, name, divisor, checkpoint):
    if config[name] % config[divisor]:
        raise UserError(f"checkpoint {checkpoint.name}: config.json has {name} not a multiple of {divisor}")


def shape_of(config: dict[str, Any]) -> Shape:
    return Shape(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
        qkv_bias=config.get("qkv_bias", True),
    )
