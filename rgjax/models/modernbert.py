"""ModernBERT (Warner et al. 2024), on packed text (packing.py).

Rotary positions (Su et al. 2021), attention to a window in most layers and to all tokens in every third one, gated
MLPs, and no biases. Parameters are float32; `dtype` is that of activations.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.errors import UserError
from rgjax.models.backbone import Family, Options
from rgjax.models.kernels.embedding import lookup
from rgjax.models.packing import Packed, to_row, to_sentences
from rgjax.models.pooling import Pooling, TextBackbone, sentence_settings
from rgjax.models.pretrained import Checkpoint, Tensors, settings
from rgjax.models.transformer import Dense, LayerNorm, activation, attention, checked, dropout, scan_layers


class ModernLayers(nnx.Module):
    """A stack of ModernBERT's layers: x [P, D] -> [P, D].

    The first layer does not normalize before attention; its parameters of that norm are unused.
    """

    def __init__(self, tensors: Tensors, config: dict[str, Any], *, dropout: float, unroll: bool | int):
        width, inner, bias = config["hidden_size"], config["intermediate_size"], config["attention_bias"]
        norm = partial(_norm, config=config)
        self.norm1, self.norm2 = norm(tensors.at("attn_norm")), norm(tensors.at("mlp_norm"))
        self.qkv = Dense(tensors, ("attn.Wqkv",), width, 3 * width, bias=bias)
        self.output = Dense(tensors, ("attn.Wo",), width, width, bias=bias)
        self.mlp1 = Dense(tensors, ("mlp.Wi",), width, 2 * inner, bias=config["mlp_bias"])
        self.mlp2 = Dense(tensors, ("mlp.Wo",), inner, width, bias=config["mlp_bias"])
        self.heads, self.activation = config["num_attention_heads"], config["hidden_act"]
        self.thetas, self.windows = config["thetas"], config["windows"]
        self.dropout, self.unroll = dropout, unroll

    def __call__(self, x, packed: Packed, key=None):
        count = len(self.windows)
        keys = None if key is None else jax.random.split(key, count)
        half = self.qkv.kernel.shape[2] // 6 // self.heads
        # By NumPy, as rounded as torch's: at position 8,000 a last bit is a thousandth of a radian.
        turns = 1 / np.array(self.thetas, np.float32)[:, None] ** (np.arange(half, dtype=np.float32) / half)
        geometry = jnp.asarray(turns), jnp.asarray(self.windows, jnp.int32)
        scanned = jnp.arange(count, dtype=jnp.int32), keys, geometry
        return scan_layers(self, x, scanned, lambda layer, x, scanned: layer._layer(x, packed, *scanned))

    def _layer(self, x, packed, index, key, geometry):
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        y = self._attend(jnp.where(index == 0, x, self.norm1(x)), packed, geometry, keys[0])
        x = x + dropout(y, self.dropout, keys[1])
        return x + self.mlp2(dropout(jax.checkpoint(self._gate)(self.mlp1(self.norm2(x))), self.dropout, keys[2]))

    def _gate(self, x):
        """The first half of the features, activated, times the second (Shazeer 2020)."""
        inputs, gate = jnp.split(x, 2, axis=-1)
        return activation(self.activation)(inputs) * gate

    def _attend(self, x, packed, geometry, key):
        turns, window = geometry
        qkv = to_sentences(self.qkv(x), packed)
        batch, longest, _ = qkv.shape
        query, keys, values = jnp.moveaxis(qkv.reshape(batch, longest, 3, self.heads, -1), 2, 0)
        positions = jnp.arange(longest, dtype=jnp.int32)
        bias = jnp.where(jnp.abs(positions[:, None] - positions[None]) <= window, 0.0, -1e30)[None, None]
        query, keys = (rotate(tokens, positions, turns) for tokens in (query, keys))
        y = attention(query, keys, values, packed.lengths, self.dropout, key, bias)
        return self.output(to_row(y.reshape(batch, longest, -1), packed))


class ModernBert(TextBackbone):
    """ModernBERT: Packed -> hidden states [P, D] in `dtype`."""

    above = ("final_norm",)  # parameters after the layers

    def __init__(self, tensors: Tensors, config: dict[str, Any], *, pooling: Pooling, options: Options):
        width, count = config["hidden_size"], config["num_hidden_layers"]
        tensors = tensors.below("embeddings.tok_embeddings.weight")
        words = tensors.take("embeddings.tok_embeddings.weight", (config["vocab_size"], width))
        self.words = nnx.Param(jnp.asarray(words))
        self.norm = _norm(tensors.at("embeddings.norm"), config)
        layers = tensors.layers("layers", count)
        for name, value in (("weight", 1), ("bias", 0)):  # which the first layer lacks
            tensors.weights.add(f"{layers.prefixes[0]}attn_norm.{name}", np.full(width, value, np.float32))
        self.layers = ModernLayers(layers, config, dropout=options.dropout, unroll=options.unroll)
        self.final_norm = _norm(tensors.at("final_norm"), config)
        self.pooling, self.dropout, self.dtype = pooling, options.dropout, options.dtype

    def __call__(self, packed: Packed, key=None):
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = self.norm(lookup(self.words[...], packed.ids)).astype(self.dtype)
        return self.final_norm(self.layers(dropout(x, self.dropout, keys[0]), packed, keys[1]))


def rotate(x, positions, turns):
    """Rotary positions: features i and i + d / 2 turn by `position * turns[i]`.

    Args:
        x: queries or keys [B, T, heads, d].
        positions: of the tokens [T].
        turns: radians per position [d / 2], `theta^(-2i / d)`.

    Returns:
        [B, T, heads, d] in the dtype of `x`, computed in float32.
    """
    angles = (positions.astype(jnp.float32)[:, None] * turns[None])[None, :, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=3)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=3)
    return turned.astype(x.dtype)


def _norm(tensors: Tensors, config: dict[str, Any]) -> LayerNorm:
    return LayerNorm(tensors, config["hidden_size"], config["layer_norm_eps"], bias=config["norm_bias"])


_DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "hidden_activation": "gelu",
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "local_attention": 128,
}
_EVERYWHERE = 2**30  # window of a layer that attends to all tokens


def modernbert_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a ModernBERT checkpoint, with its folder's pooling.

    Raises UserError for impossible values.
    """
    values = checkpoint.json("config.json")
    config = settings(values, _DEFAULTS, checkpoint.name)
    config |= {"hidden_act": config.pop("hidden_activation"), "layer_norm_eps": config.pop("norm_eps")}
    config = checked(config, checkpoint)
    if config["hidden_size"] // config["num_attention_heads"] % 2:
        raise UserError(f"checkpoint {checkpoint.name}: config.json has heads of an odd size, which cannot be rotated")
    try:
        config |= _geometry(values, config)
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError) as error:
        raise UserError(
            f"checkpoint {checkpoint.name}: config.json has layer_types or rotary positions that are not read: {error}"
        ) from error
    return config | {"model_type": "modernbert", **sentence_settings(checkpoint)}


def _geometry(values: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The window and the rotary theta of each layer.

    Of late config.json lists them; before, it had the period of the layers that attend to all tokens, and two numbers.
    """
    every, count = values.get("global_attn_every_n_layers", 3), config["num_hidden_layers"]
    kinds = values.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(count)]
    theta = {"full_attention": values.get("global_rope_theta", 160_000.0)}
    theta["sliding_attention"] = values.get("local_rope_theta", 10_000.0) or theta["full_attention"]
    for kind, rope in (values.get("rope_parameters") or {}).items():
        theta[kind] = rope.get("rope_theta", theta[kind])
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_type={rope['rope_type']!r}")
    if values.get("rope_scaling") or len(kinds) != count:
        raise ValueError(f"rope_scaling={values.get('rope_scaling')!r}, {len(kinds)} layer_types")
    windows = {"sliding_attention": config["local_attention"] // 2, "full_attention": _EVERYWHERE}
    return {"windows": tuple(windows[kind] for kind in kinds), "thetas": tuple(float(theta[kind]) for kind in kinds)}


def _build(tensors: Tensors, settings: dict[str, Any], options: Options) -> ModernBert:
    return ModernBert(tensors, settings, pooling=settings["pooling"], options=options)


MODERNBERT = Family("sentences", modernbert_config, _build)
