"""Families of vision transformers: their checkpoints and features.

    CLIP     Radford et al. 2021    projected class token; the class token where there is no projection
    ViT      Dosovitskiy et al.     class token after the last norm
    DeiT     Touvron et al. 2021    class token after the last norm, beside a distillation token
    DINOv2   Oquab et al. 2023      class token after the last norm; LayerScale, SwiGLU, registers (Darcet et al. 2023)
    SigLIP   Zhai et al. 2023       attention pooling; the mean of tokens where there is no pooling head
    SigLIP 2 Tschannen et al. 2025  as SigLIP; its NaFlex checkpoints see squares

Positions are interpolated to images of other sizes, as by transformers' `interpolate_pos_encoding=True`.
"""

from dataclasses import replace
from functools import partial
from math import isqrt
from typing import Any

from rgjax.errors import UserError
from rgjax.models.backbone import Family, Options
from rgjax.models.preprocessing import IMAGENET, PROCESSORS
from rgjax.models.pretrained import Checkpoint, Tensors, settings
from rgjax.models.transformer import LayerNames, checked, other_architecture, require_multiple
from rgjax.models.vit import Style, VisionTransformer

_VIT_LAYER = LayerNames(
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    output="attention.output.dense",
    norm1="layernorm_before",
    mlp1="intermediate.dense",
    mlp2="output.dense",
    norm2="layernorm_after",
)
_DINO_LAYER = _VIT_LAYER._replace(
    norm1="norm1",
    mlp1="mlp.fc1",
    mlp2="mlp.fc2",
    norm2="norm2",
    scale1="layer_scale1.lambda1",
    scale2="layer_scale2.lambda1",
)
_CLIP_LAYER = LayerNames(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.out_proj",
    norm1="layer_norm1",
    mlp1="mlp.fc1",
    mlp2="mlp.fc2",
    norm2="layer_norm2",
)

# Of transformers' configurations: hub repositories leave out what is default.
_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
}
_DINO = {name: value for name, value in _BASE.items() if name != "intermediate_size"} | {
    "layer_norm_eps": 1e-6,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
_SIGLIP = _BASE | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True}

_VIT = Style(
    name="ViT",
    model_types=("vit",),
    defaults=_BASE | {"qkv_bias": True},
    preprocessing=PROCESSORS["ViT"],
    layers="encoder.layer",
    layer=_VIT_LAYER,
    patches="embeddings.patch_embeddings.projection",
    positions="embeddings.position_embeddings",
    tokens=("embeddings.cls_token",),
    norm_after="layernorm",
)
_DINOV2 = replace(
    _VIT,
    name="DINOv2",
    model_types=("dinov2",),
    defaults=_DINO | {"patch_size": 14},
    preprocessing={**PROCESSORS["Bit"], "size": {"shortest_edge": 256}, **IMAGENET},
    layer=_DINO_LAYER,
)
_CLIP = Style(
    name="CLIP",
    model_types=("clip", "clip_vision_model"),
    defaults=_BASE | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "patch_size": 32, "projection_dim": 512},
    preprocessing=PROCESSORS["CLIP"],
    layers="encoder.layers",
    layer=_CLIP_LAYER,
    patches="embeddings.patch_embedding",
    patch_bias=False,
    positions="embeddings.position_embedding.weight",
    tokens=("embeddings.class_embedding",),
    batched=False,
    norm_before="pre_layrnorm",  # sic, in the checkpoints
    norm_after="post_layernorm",
)
_SIGLIP_1 = replace(
    _CLIP,
    name="SigLIP",
    model_types=("siglip", "siglip_vision_model"),
    defaults=_SIGLIP,
    preprocessing=PROCESSORS["Siglip"],
    patch_bias=True,
    tokens=(),
    norm_before=None,
    pool="attention",
)
STYLES = (
    _CLIP,
    _VIT,
    replace(
        _VIT,
        name="DeiT",
        model_types=("deit",),
        preprocessing=PROCESSORS["DeiT"],
        tokens=("embeddings.cls_token", "embeddings.distillation_token"),
    ),
    _DINOV2,
    replace(
        _DINOV2,
        name="DINOv2 with registers",
        model_types=("dinov2_with_registers",),
        defaults=_DINO | {"num_register_tokens": 4},
        registers="embeddings.register_tokens",
        resize="bicubic, antialiased",
    ),
    _SIGLIP_1,
    replace(
        _SIGLIP_1,
        name="SigLIP 2",
        model_types=("siglip2", "siglip2_vision_model"),
        defaults=_SIGLIP | {"num_patches": 256},
        preprocessing={"size": {"height": 256, "width": 256}, "resample": 2},
        linear_patches=True,
        resize="bilinear, antialiased",
    ),
)


def vision_settings(style: Style, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checked settings of a checkpoint's vision transformer.

    Raises UserError for another architecture or impossible values.
    """
    values = checkpoint.json("config.json")
    if values.get("model_type") not in style.model_types:
        raise other_architecture(checkpoint, values, f"{style.name} (model_type {' or '.join(style.model_types)})")
    names, vision = values.get("architectures"), values.get("vision_config")
    if isinstance(vision, dict):  # a model of two towers
        values = vision | {k: values[k] for k in ("projection_dim",) if k in values}
    sides = {name: values[name] for name in ("image_size", "patch_size") if isinstance(values.get(name), list)}
    # [224, 224] is 224; of sides that differ, settings() refuses the list.
    values = values | {name: side[0] for name, side in sides.items() if len(side) == 2 and side[0] == side[1]}
    config = checked(settings(values, dict(style.defaults), checkpoint.name), checkpoint)

    if "mlp_ratio" in config:
        inner = int(config["hidden_size"] * config["mlp_ratio"])
        config["intermediate_size"] = (int(inner * 2 / 3) + 7) // 8 * 8 if config["use_swiglu_ffn"] else inner
        config["hidden_act"] = "swiglu" if config["use_swiglu_ffn"] else config["hidden_act"]
    if "num_patches" in config:
        config["image_size"] = isqrt(config["num_patches"]) * config["patch_size"]
    if "projection_dim" in config:
        config["architecture"] = str(names[0]) if isinstance(names, list) and names else ""
    if config["image_size"] < config["patch_size"]:
        raise UserError(f"checkpoint {checkpoint.name}: config.json has image_size below patch_size")
    if style.tokens:  # SigLIP has checkpoints whose patches of 14 pixels do not fill 384
        require_multiple(config, "image_size", "patch_size", checkpoint)
    return config


def _family(style: Style) -> Family:
    def build(tensors: Tensors, config: dict[str, Any], options: Options) -> VisionTransformer:
        names = style.layer
        if config["hidden_act"] == "swiglu":
            names = names._replace(mlp1="mlp.weights_in", mlp2="mlp.weights_out")
        return VisionTransformer(tensors, config, replace(style, layer=names), options)

    return Family("images", partial(vision_settings, style), build, style.preprocessing)


# By the `model_type` in config.json.
VISION = {name: _family(style) for style in STYLES for name in style.model_types}
CLIP = VISION["clip"]
