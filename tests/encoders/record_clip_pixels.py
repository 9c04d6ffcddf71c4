"""Record tests/encoders/clip_pixels.npz: small images and how CLIP's own preprocessing resizes and crops them.

python tests/encoders/record_clip_pixels.py        (transformers 5.24.0 and Pillow 13.0.0; no torchvision)

image0 to image3 are the uint8 images, pixels0 to pixels3 the uint8 levels before they are rescaled and normalized,
all HWC, and sizes the target of each: the shortest edge and the side of the square crop.
"""

from pathlib import Path

import numpy as np

# CLIPImageProcessor itself would take torchvision's resize wherever that is installed, which gives other levels.
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

# Height, width, target: a down-scale, a plain halving, and two up-scales; the first and third also crop.
CASES = [(50, 40, 32), (64, 64, 32), (30, 48, 32), (40, 40, 56)]
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def draw_image(height, width, rng):
    y, x = np.mgrid[0:height, 0:width] / 12
    waves = [np.sin(x * a + b) * np.cos(y * c + d) for a, b, c, d in rng.uniform(0.5, 3, (3, 4))]
    # Some of it beyond 0 and 255, as clipped images are: there the bicubic kernel overshoots and must be clipped.
    return (128 + 120 * np.stack(waves, -1) + rng.normal(0, 40, (height, width, 3))).clip(0, 255).astype(np.uint8)


rng = np.random.default_rng(0)
recorded = {"sizes": np.array([size for *_, size in CASES], np.int32)}
for i, (height, width, size) in enumerate(CASES):
    image = draw_image(height, width, rng)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, resample=3
    )  # 3: bicubic
    whole = processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    levels = processor(
        image, return_tensors="np", input_data_format="channels_last", do_rescale=False, do_normalize=False
    )["pixel_values"][0]
    assert levels.shape == (3, size, size) and (levels == levels.round()).all()
    levels = levels.transpose(1, 2, 0).astype(np.uint8)
    # The levels are all there is to know: the usual call only rescales and normalizes them.
    np.testing.assert_allclose(whole.transpose(1, 2, 0), (levels / 255 - MEAN) / STD, atol=1e-6)
    recorded[f"image{i}"], recorded[f"pixels{i}"] = image, levels
np.savez_compressed(Path(__file__).with_name("clip_pixels.npz"), **recorded)
