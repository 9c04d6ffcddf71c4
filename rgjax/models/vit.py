"""The vision transformer (Dosovitskiy et al. 2021), with what its families need.

vit_families.py has the table of the families.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.pretrained import Tensors
from rgjax.models.transformer import (
    Dense,
    LayerNames,
    LayerNorm,
    Layers,
    Shape,
    activation,
    as_row,
    attention,
    dropout,
    shape_of,
)


@dataclass(frozen=True)
class Style:
    """What distinguishes a family: names of tensors, and switches.

    Attributes:
        name: of the family, in messages.
        model_types: its `model_type`s in config.json.
        defaults: of the settings that it reads from config.json; a setting without default is not read.
        layers, layer: names of the stack of layers, and within a layer.
        patches, positions: names of the embeddings.
        tokens: names of the tokens before the patches that have positions, the class token first.
        registers: name of the tokens without positions.
        norm_before, norm_after: names of the normalizations before and after the layers.
        batched: tokens and positions are stored with a first axis of length 1.
        patch_bias: the patch embedding has a bias.
        resize: how positions are interpolated, a key of `_RESIZES`.
        pool: "token": the first token; "attention": a head with a learned query, or the mean where there is none.
        linear_patches: the patch embedding is stored as a matrix, not as a convolution.
        preprocessing: of pictures, as in Family.
    """

    name: str
    model_types: tuple[str, ...]
    defaults: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    layers: str
    layer: LayerNames
    patches: str
    positions: str
    norm_after: str
    tokens: tuple[str, ...] = ()
    registers: str | None = None
    batched: bool = True
    norm_before: str | None = None
    patch_bias: bool = True
    resize: str = "bicubic"
    pool: str = "token"
    linear_patches: bool = False


class VisionTransformer(nnx.Module):
    """Images [B, H, W, 3], normalized -> features [B, width] in float32.

    H and W are the checkpoint's image size or any multiples of its patch size.
    """

    above = ("norm_after", "head", "projection")

    def __init__(self, tensors: Tensors, config: dict[str, Any], style: Style, options: Options):
        shape, width, patch = shape_of(config), config["hidden_size"], config["patch_size"]
        tower = tensors.below(f"{style.patches}.weight")
        self.size, self.patch, self.source = config["image_size"], patch, str(tensors.weights.source)
        self.resize, self.pool = style.resize, style.pool
        self.dropout, self.dtype = options.dropout, options.dtype
        if options.image_size is not None:
            self.grid(options.image_size)

        if style.linear_patches:
            kernel = tower.take(f"{style.patches}.weight", (width, patch * patch * 3)).T
        else:
            kernel = tower.take(f"{style.patches}.weight", (width, 3, patch, patch)).transpose(2, 3, 1, 0)
        self.patches = nnx.Param(jnp.asarray(kernel.reshape(-1, width)))
        self.patch_bias = (
            nnx.Param(jnp.asarray(tower.take(f"{style.patches}.bias", (width,)))) if style.patch_bias else None
        )

        def rows(name: str, *shape: int) -> nnx.Param:
            return nnx.Param(jnp.asarray(tower.take(name, (*shape, width)).reshape(-1, width)))

        one = (1,) if style.batched else ()
        self.tokens = nnx.List([nnx.Param(rows(name, *one, *one)[0]) for name in style.tokens])  # [D] each
        self.registers = rows(style.registers, 1, config["num_register_tokens"]) if style.registers else None
        self.positions = rows(style.positions, *one, len(self.tokens) + self.grid(self.size) ** 2)

        self.norm_before = LayerNorm(tower.at(style.norm_before), width, shape.epsilon) if style.norm_before else None
        how = {"pre_norm": True, "dropout": options.dropout, "unroll": options.unroll}
        self.layers = Layers(tower.layers(style.layers, shape.layers), shape, style.layer, **how)
        self.norm_after = LayerNorm(tower.at(style.norm_after), width, shape.epsilon)
        self.head = AttentionPool(tower.at("head"), shape) if config.get("vision_use_head") else None
        self.projection = _projection(tensors, config) if "projection_dim" in config else None

    @property
    def width(self) -> int:
        return (self.norm_after.scale if self.projection is None else self.projection.kernel).shape[-1]

    def features(self, images, *, train: bool = False, key=None):
        """What users of the family take from it; dropout in training with a key."""
        x = self.hidden(images, key if train else None)
        if self.pool == "token":
            x = self.norm_after(x[:, 0].astype(jnp.float32))
        else:
            x = self.norm_after(x)
            x = self.head(x) if self.head is not None else x.astype(jnp.float32).mean(axis=1)
        x = x.astype(jnp.float32)
        return x if self.projection is None else self.projection(x)

    def hidden(self, images, key=None):
        """Hidden states before the last norm [B, tokens + registers + patches, D]."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = self._embed(images.astype(self.dtype))
        x = x if self.norm_before is None else self.norm_before(x)
        return self.layers(dropout(x, self.dropout, keys[0]), key=keys[1])

    def _embed(self, images):
        batch, height, width, channels = images.shape
        rows, columns, patch = self.grid(height), self.grid(width), self.patch
        images = images[:, : rows * patch, : columns * patch]
        patches = images.reshape(batch, rows, patch, columns, patch, channels).swapaxes(2, 3)
        x = patches.reshape(batch, rows * columns, -1) @ self.patches[...].astype(self.dtype)
        if self.patch_bias is not None:
            x = x + as_row(self.patch_bias[...].astype(self.dtype), x)

        def tokens(rows):
            return jnp.broadcast_to(rows.astype(self.dtype)[None], (batch, *rows.shape))

        x = jnp.concatenate([*(tokens(token[...][None]) for token in self.tokens), x], axis=1)
        x = x + self._positions(rows, columns).astype(self.dtype)[None]
        if self.registers is not None:
            x = jnp.concatenate([x[:, :1], tokens(self.registers[...]), x[:, 1:]], axis=1)
        return x

    def _positions(self, rows: int, columns: int):
        """Positions of tokens and patches [tokens + rows * columns, D]."""
        positions, first, side = self.positions[...], len(self.tokens), self.grid(self.size)
        if (rows, columns) == (side, side):
            return positions
        down, across = (jnp.asarray(resize_matrix(side, new, self.resize)) for new in (rows, columns))
        grid = positions[first:].reshape(side, side, -1)
        grid = jnp.einsum("ra,cb,abd->rcd", down, across, grid, precision="highest")
        return jnp.concatenate([positions[:first], grid.reshape(rows * columns, -1)])

    def grid(self, size: int) -> int:
        """Patches along a side of `size` pixels.

        Raises UserError for another size than the checkpoint's that is no multiple of the patch size.
        """
        if size != self.size and size % self.patch:
            near = max(size // self.patch, 1) * self.patch
            raise UserError(
                f"{self.source}: image size {size} is not a multiple of the patch size {self.patch}; "
                f"use {near} or {near + self.patch}"
            )
        return size // self.patch


class AttentionPool(nnx.Module):
    """Pooling by the attention of a learned query, and an MLP: [B, T, D] -> [B, D]."""

    def __init__(self, tensors: Tensors, shape: Shape):
        width = shape.width
        self.query = nnx.Param(jnp.asarray(tensors.take("probe", (1, 1, width))[0, 0]))
        self.kernel = nnx.Param(jnp.asarray(tensors.take("attention.in_proj_weight", (3 * width, width)).T))
        self.bias = nnx.Param(jnp.asarray(tensors.take("attention.in_proj_bias", (3 * width,))))
        self.output = Dense(tensors, ("attention.out_proj",), width, width)
        self.norm = LayerNorm(tensors.at("layernorm"), width, shape.epsilon)
        self.mlp1 = Dense(tensors, ("mlp.fc1",), width, shape.inner)
        self.mlp2 = Dense(tensors, ("mlp.fc2",), shape.inner, width)
        self.shape = shape

    def __call__(self, x):
        (batch, tokens, width), heads = x.shape, self.shape.heads
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        query = self.query[...].astype(x.dtype) @ kernel[:, :width] + bias[:width]
        query = jnp.broadcast_to(
            query.reshape(1, 1, self.shape.heads, -1), (batch, 1, self.shape.heads, width // self.shape.heads)
        )
        pairs = x @ kernel[:, width:] + as_row(bias[width:], x)
        keys, values = jnp.moveaxis(pairs.reshape(batch, tokens, 2, heads, -1), 2, 0)
        y = self.output(attention(query, keys, values, None, 0.0, None).reshape(batch, width))
        return y + self.mlp2(activation(self.shape.activation)(self.mlp1(self.norm(y))))


def _cubic(a: float):
    """The cubic convolution kernel of Keys (1981)."""

    def kernel(x):
        x = np.abs(x)
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return kernel


def _triangle(x):
    return np.maximum(1 - np.abs(x), 0)


# Kernels of torch's `interpolate(align_corners=False)`, and whether they widen in order to reduce (`antialias=True`).
_RESIZES = {
    "bicubic": (_cubic(-0.75), False),
    "bicubic, antialiased": (_cubic(-0.5), True),
    "bilinear, antialiased": (_triangle, True),
}


def resize_matrix(old: int, new: int, resize: str) -> np.ndarray:
    """The matrix [new, old] that resizes an axis as torch's `interpolate` does.

    `resize` is a key of `_RESIZES`.
    """
    kernel, antialias = _RESIZES[resize]
    scale = old / new
    taps, centers = np.arange(-2, old + 2), (np.arange(new) + 0.5) * scale - 0.5
    weights = kernel((taps[None] - centers[:, None]) / (max(scale, 1) if antialias else 1))
    inside = weights[:, 2:-2]
    if antialias:  # outside is nothing
        inside = inside / inside.sum(axis=1, keepdims=True)
    else:  # outside is like the border
        inside[:, 0] += weights[:, :2].sum(axis=1)
        inside[:, -1] += weights[:, -2:].sum(axis=1)
    return inside.astype(np.float32)


def _projection(tensors: Tensors, config: dict[str, Any]) -> Dense | None:
    top, name = tensors.below("visual_projection.weight"), "visual_projection"
    known = {"CLIPModel": True, "CLIPVisionModelWithProjection": True, "CLIPVisionModel": False}
    if not known.get(config["architecture"], top.has(f"{name}.weight")):
        return None
    return Dense(top, (name,), config["hidden_size"], config["projection_dim"], bias=False)
