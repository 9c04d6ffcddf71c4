"""Record tests/models/preprocessing.npz: pictures as timm and torchvision resize and crop them.

python tests/models/record_preprocessing.py      (timm 1.0.31, torchvision 0.29.2, torch 2.15, Pillow 13.0.0)

`settings` holds the `pretrained_cfg` of each case as JSON, null for torchvision's own evaluation (256 and 224 pixels,
here an eighth of both); pixels0, pixels1, ... are the uint8 levels [pictures, S, S, 3] before they are normalized.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import functional

SIZES = [(51, 37), (37, 51), (64, 64), (33, 32), (7, 90), (301, 1), (1, 1), (130, 97)]  # as in the test
SETTINGS = [
    {"input_size": [3, 21, 21], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"},
    {"input_size": [3, 16, 16], "interpolation": "bilinear", "crop_pct": 0.9},
    {"input_size": [3, 20, 20], "interpolation": "bicubic", "crop_pct": 0.8, "crop_mode": "squash"},
    {"input_size": [3, 25, 25], "crop_pct": 1.0, "crop_mode": "border", "mean": [0.5, 0.4, 0.3]},
    {"input_size": [3, 16, 16], "interpolation": "lanczos", "crop_pct": 0.95, "crop_mode": "border"},
    None,
]

rng = np.random.default_rng(0)
pictures = [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in SIZES]
recorded = {"settings": np.array(json.dumps(SETTINGS))}


def levels(picture, settings):
    if settings is None:
        small = functional.resize(picture, [32], interpolation=functional.InterpolationMode.BILINEAR)
        return np.asarray(functional.center_crop(small, [28]))
    if settings.get("crop_mode") == "border" and min(picture.size) == 1 < max(picture.size):  # timm makes it 0 pixels
        picture = picture.resize((301, 16))
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=settings), normalize=False)
    return transform(picture).numpy().transpose(1, 2, 0)


for case, settings in enumerate(SETTINGS):
    recorded[f"pixels{case}"] = np.stack([levels(picture, settings) for picture in pictures])
np.savez_compressed(Path(__file__).with_name("preprocessing.npz"), **recorded)
