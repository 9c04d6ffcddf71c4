"""Record tests/encoders/pictures: features of whole picture files by transformers, preprocessing included.

python tests/encoders/record_pictures.py      (transformers 5.24.0, torch 2.15.0, Pillow 13.0.0)

A folder for each family holds a tiny random checkpoint with the settings of its processor. pictures.npz has the bytes
of each file, `names`, and by family the features [pictures, D] of transformers' PIL processors and networks.
Transparent pictures are laid on white, as by `transformers.image_transforms.convert_to_rgb`; of 16 bits, 65,535 is
white, where Pillow's own conversion would clip at 255. It prints how far the processors on torchvision differ.
"""

import io
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from PIL import Image
from transformers.image_transforms import convert_to_rgb
from transformers.models.bit import image_processing_bit, image_processing_pil_bit
from transformers.models.clip import image_processing_clip, image_processing_pil_clip
from transformers.models.convnext import image_processing_convnext, image_processing_pil_convnext
from transformers.models.deit import image_processing_deit, image_processing_pil_deit
from transformers.models.siglip import image_processing_pil_siglip, image_processing_siglip
from transformers.models.vit import image_processing_pil_vit, image_processing_vit

FOLDER = Path(__file__).with_name("pictures")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
INNER = {"intermediate_size": 32}
SQUARE = {"height": 32, "width": 32}


def class_token(output):
    return output.last_hidden_state[:, 0]


def pooled(output):
    return output.pooler_output.flatten(1)


# Network, its features, the processors on Pillow and on torchvision, their settings.
FAMILIES = {
    "clip": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**TINY, **INNER, projection_dim=12)),
        lambda output: output.image_embeds,
        (image_processing_pil_clip.CLIPImageProcessorPil, image_processing_clip.CLIPImageProcessor),
        {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
    ),
    "vit": (
        lambda: hf.ViTModel(hf.ViTConfig(**TINY, **INNER)),
        class_token,
        (image_processing_pil_vit.ViTImageProcessorPil, image_processing_vit.ViTImageProcessor),
        {"size": SQUARE},
    ),
    "deit": (
        lambda: hf.DeiTModel(hf.DeiTConfig(**TINY, **INNER)),
        class_token,
        (image_processing_pil_deit.DeiTImageProcessorPil, image_processing_deit.DeiTImageProcessor),
        {"size": {"height": 37, "width": 37}, "crop_size": SQUARE, "image_mean": [0.485, 0.456, 0.406]},
    ),
    "dinov2": (
        lambda: hf.Dinov2Model(hf.Dinov2Config(**{**TINY, "image_size": 56}, mlp_ratio=2)),
        class_token,
        (image_processing_pil_bit.BitImageProcessorPil, image_processing_bit.BitImageProcessor),
        {"size": {"shortest_edge": 37}, "crop_size": SQUARE, "image_std": [0.229, 0.224, 0.225]},
    ),
    "siglip": (
        lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**TINY, **INNER)),
        pooled,
        (image_processing_pil_siglip.SiglipImageProcessorPil, image_processing_siglip.SiglipImageProcessor),
        {"size": SQUARE},
    ),
    "resnet": (
        lambda: hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
        pooled,
        (image_processing_pil_convnext.ConvNextImageProcessorPil, image_processing_convnext.ConvNextImageProcessor),
        {"size": {"shortest_edge": 35}, "crop_pct": 0.875},
    ),
}


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def draw_files():
    """The name of each picture, its file, and what transformers is given."""
    rng = np.random.default_rng(0)

    def wave(height, width, channels):
        y, x = np.mgrid[0:height, 0:width] / 9
        waves = [np.sin(x * a + b) * np.cos(y * c + d) for a, b, c, d in rng.uniform(0.5, 3, (channels, 4))]
        return (
            (128 + 110 * np.stack(waves, -1) + rng.normal(0, 20, (height, width, channels)))
            .clip(0, 255)
            .astype(np.uint8)
        )

    rgb = Image.fromarray(wave(51, 37, 3))
    transparent = rgb.quantize(16)
    cmyk = Image.fromarray(wave(33, 51, 4), "CMYK")
    deep = wave(40, 29, 1)[..., 0].astype(np.uint16) * 257 + 100
    deep[0, 0] = 65535
    files = {
        "rgb.png": encoded(rgb, "PNG"),
        "photo.jpg": encoded(Image.fromarray(wave(97, 131, 3)), "JPEG", quality=90),
        "gray.png": encoded(Image.fromarray(wave(45, 61, 1)[..., 0]), "PNG"),
        "palette.png": encoded(rgb.quantize(32), "PNG"),
        "palette-transparent.png": encoded(transparent, "PNG", transparency=3),
        "rgba.png": encoded(Image.fromarray(wave(35, 51, 4)), "PNG"),
        "gray-alpha.png": encoded(Image.fromarray(wave(31, 47, 2)), "PNG"),
        "cmyk.jpg": encoded(cmyk, "JPEG", quality=95),
        "bits.png": encoded(Image.fromarray(wave(39, 39, 1)[..., 0]).convert("1"), "PNG"),
        "16-bit.png": encoded(Image.fromarray(deep), "PNG"),
        "line.png": encoded(Image.fromarray(wave(1, 57, 3)), "PNG"),
        "point.png": encoded(Image.fromarray(wave(1, 1, 3)), "PNG"),
    }
    for name, content in files.items():
        image = Image.open(io.BytesIO(content))
        if name == "16-bit.png":
            image = Image.fromarray(np.rint(np.asarray(image) * (255 / 65535)).astype(np.uint8))
        yield name, content, Image.fromarray(convert_to_rgb(image, return_numpy=True))


names, contents, images = zip(*draw_files(), strict=True)
recorded = {"names": np.array(names), **{f"file{i}": np.frombuffer(c, np.uint8) for i, c in enumerate(contents)}}
for family, (network, features, processors, settings) in FAMILIES.items():
    torch.manual_seed(0)
    model = network().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small initial values, so that mistakes show
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(FOLDER / family)
        by_backend = []
        for processor in processors:
            processor = processor(**settings)
            processor.save_pretrained(FOLDER / family)
            pixels = [processor(image, return_tensors="pt")["pixel_values"] for image in images]
            outputs = [features(model(batch)) for batch in pixels]
            by_backend.append(torch.cat(outputs).numpy())
    recorded[family] = by_backend[0]
    errors = np.linalg.norm(by_backend[1] - by_backend[0], axis=1) / np.linalg.norm(by_backend[0], axis=1)
    print(f"{family}: torchvision's processors differ by {errors.max():.1e} relative (median {np.median(errors):.1e})")
np.savez_compressed(FOLDER / "pictures.npz", **recorded)
