"""CLIP's vision transformer (Radford et al. 2021)."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from rgjax.models.backbone import Family, Options
from rgjax.models.preprocessing import PROCESSORS
from rgjax.models.pretrained import Checkpoint, Tensors, settings
from rgjax.models.transformer import Dense, LayerNorm, Layers, checked, other_architecture, require_multiple, shape_of


class ClipVision(nnx.Module):
    """CLIP's vision transformer: images [B, S, S, 3] -> embeddings in float32.

    Images are normalized; embeddings are [B, projection_dim]. For a checkpoint without a projection, the embedding is
    the pooled state [B, hidden_size].
    """

    def __init__(self, tensors: Tensors, config: dict[str, Any], *, dtype=jnp.float32):
        shape, width, patch = shape_of(config), config["hidden_size"], config["patch_size"]
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

    @property
    def width(self) -> int:
        return (self.norm_after.scale if self.projection is None else self.projection.kernel).shape[-1]

    def features(self, images, *, train: bool = False, key=None):
        return self(images)

    def __call__(self, images):
        pooled = self.norm_after(self.hidden(images)[:, 0].astype(jnp.float32))
        return pooled if self.projection is None else self.projection(pooled)


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


def clip_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a CLIP checkpoint's vision transformer.

    Raises UserError for another architecture or impossible values.
    """
    values = checkpoint.json("config.json")
    if values.get("model_type") not in ("clip", "clip_vision_model"):
        raise other_architecture(checkpoint, values, "CLIP (model_type clip or clip_vision_model)")
    vision = values.get("vision_config")
    if isinstance(vision, dict):
        values = {**vision, **{k: values[k] for k in ("projection_dim",) if k in values}}
    config = checked(settings(values, _CLIP_DEFAULTS, checkpoint.name), checkpoint)
    require_multiple(config, "image_size", "patch_size", checkpoint)
    return config


def _clip(tensors: Tensors, settings: dict[str, Any], options: Options) -> ClipVision:
    return ClipVision(tensors, settings, dtype=options.dtype)


CLIP = Family("images", clip_config, _clip, PROCESSORS["CLIP"])
