"""Record what torchvision's ColorJitter makes of images with given factors.

torchvision 0.29.2 (CPU) wrote jitter_torchvision.npz:

    python tests/data/record_jitter.py
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import functional

FACTORS = [(0.6, 1.3, 0.7), (1.4, 0.65, 1.4), (1.0, 1.0, 1.0)]


def main():
    images = np.random.default_rng(0).uniform(0, 255, (len(FACTORS), 6, 5, 3)).astype(np.float32)
    changed = []
    for image, (brightness, contrast, saturation) in zip(images, FACTORS, strict=True):
        x = torch.from_numpy(image).permute(2, 0, 1) / 255
        x = functional.adjust_brightness(x, brightness)
        x = functional.adjust_contrast(x, contrast)
        x = functional.adjust_saturation(x, saturation)
        changed.append((x * 255).permute(1, 2, 0).numpy())
    path = Path(__file__).with_name("jitter_torchvision.npz")
    np.savez_compressed(path, images=images, factors=np.array(FACTORS, np.float32), changed=np.stack(changed))


if __name__ == "__main__":
    main()
