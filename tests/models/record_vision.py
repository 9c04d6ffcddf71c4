"""Record tests/models/vision/: tiny random vision transformers of transformers, and what torch makes of them.

python tests/models/record_vision.py      (torch 2.15.0, transformers 5.24.0)

Each folder is a checkpoint. golden.npz has images of several sizes, and by checkpoint its features [sizes, B, D], its
own size first. For images of 24 pixels it has the hidden states, and the gradients of `sum(features * directions)`. It
also has torch's resizing matrices.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from record_transformers import draw_parameters

FOLDER = Path(__file__).with_name("vision")
SIZES = {"16": (16, 16), "18": (18, 18), "24": (24, 24), "20x12": (20, 12)}  # height, width

SHAPE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
VISION = SHAPE | {"intermediate_size": 12, "image_size": 16}
OPEN_CLIP = VISION | {"projection_dim": 6, "hidden_act": "gelu"}
DINO = SHAPE | {"image_size": 16, "mlp_ratio": 2}
NAFLEX = SHAPE | {"intermediate_size": 12, "num_patches": 16}
TEXT = {
    "vocab_size": 4, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4,
    "max_position_embeddings": 2, "projection_size": 8, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

MODELS = {
    "clip": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**OPEN_CLIP)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VISION)),
    "vit_classifier": lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION, qkv_bias=False)),
    "deit": lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VISION)),
    "dinov2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO)),
    "dinov2_giant": lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO, use_swiglu_ffn=True)),
    "dinov2_registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**DINO)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(vision_config=VISION, text_config=TEXT)),
    # As google/siglip-so400m-patch14-384, whose 27 patches of 14 pixels leave 6 pixels out.
    "siglip_18": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION | {"image_size": 18})),
    "siglip_headless": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION, vision_use_head=False)),
    "siglip2": lambda: hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**NAFLEX)),
}
# The tower of a model with something on it.
TOWERS = {
    "clip": "vision_model", "vit_classifier": "vit", "deit": "deit", "dinov2": "dinov2", "siglip": "vision_model",
}  # fmt: skip
GRADIENTS = {
    "patches": ("patch_embeddings.projection.weight", "patch_embedding.weight"),
    "positions": ("position_embeddings", "position_embedding.weight"),
    "query": (".0.attention.q_proj.weight", ".0.self_attn.q_proj.weight"),
}


def hidden_and_features(case, model, pixels):
    """Last hidden states and features of pixels [B, H, W, 3]."""
    tower = getattr(model, TOWERS[case]) if case in TOWERS else model
    if case == "siglip2":  # its processor cuts the patches
        batch, height, width, _ = pixels.shape
        rows, columns = height // 4, width // 4
        patches = pixels.reshape(batch, rows, 4, columns, 4, 3).swapaxes(2, 3).reshape(batch, rows * columns, -1)
        shapes = torch.tensor([[rows, columns]] * batch)
        out = tower(patches, torch.ones(batch, rows * columns, dtype=torch.long), shapes)
    else:
        how = {} if case.startswith("dinov2") else {"interpolate_pos_encoding": True}
        out = tower(pixels.permute(0, 3, 1, 2), **how)
    if case == "clip":
        return out.last_hidden_state, model.visual_projection(out.pooler_output)
    if case == "siglip_headless":
        return out.last_hidden_state, out.last_hidden_state.mean(dim=1)
    features = out.pooler_output if case.startswith("siglip") else out.last_hidden_state[:, 0]
    return out.last_hidden_state, features


def record(case, model, images):
    sizes = ["18" if case == "siglip_18" else "16", "24", "20x12"]
    with torch.no_grad():
        every = [hidden_and_features(case, model, torch.from_numpy(images[size]))[1].numpy() for size in sizes]
    pixels = torch.from_numpy(images["24"]).requires_grad_()
    hidden, features = hidden_and_features(case, model, pixels)
    directions = np.random.default_rng(1).normal(size=tuple(features.shape)).astype(np.float32)
    (features * torch.from_numpy(directions)).sum().backward()
    recorded = {
        f"{case}/features": np.stack(every),
        f"{case}/hidden": hidden.detach().numpy(),
        f"{case}/directions": directions,
        f"{case}/gradient/pixels": pixels.grad[0].numpy(),  # of the first image
    }
    vision = {name: p for name, p in model.named_parameters() if not name.startswith("text_model")}
    for what, ends in GRADIENTS.items():
        (gradient,) = [p.grad for name, p in vision.items() if name.endswith(ends)]
        recorded[f"{case}/gradient/{what}"] = gradient.numpy()
    return recorded


def matrices():
    """By name, the matrix [new, old] by which torch resizes the rows of an image."""
    modes = {
        "bicubic": {"mode": "bicubic"},
        "bicubic, antialiased": {"mode": "bicubic", "antialias": True},
        "bilinear, antialiased": {"mode": "bilinear", "antialias": True},
    }
    return {
        f"resize/{name}/{old}/{new}": torch.nn.functional.interpolate(
            torch.eye(old)[None, None], size=(new, old), align_corners=False, **mode
        )[0, 0].numpy()
        for name, mode in modes.items()
        for old, new in ((1, 3), (2, 2), (4, 3), (5, 12), (16, 7), (37, 16))
    }


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    # Rounded to sixteenths, so that the file compresses.
    images = {
        size: (rng.normal(size=(2, *sides, 3)) * 16).round().astype(np.float32) / 16 for size, sides in SIZES.items()
    }
    golden = {f"images/{size}": pixels for size, pixels in images.items()} | matrices()
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, (case, make) in enumerate(MODELS.items()):
        model = draw_parameters(make(), seed)
        model.save_pretrained(FOLDER / case)
        golden |= record(case, model, images)
    np.savez_compressed(FOLDER / "golden.npz", **golden)
