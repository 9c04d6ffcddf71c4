"""scikit-learn's bundled 1,797 handwritten digits, enlarged: real images without a download."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils import Bunch


def load(image_size: int):
    """Images uint8 [1797, S, S, 3], labels int32 [1797] and class names."""
    digits: Bunch = load_digits()  # pyright: ignore[reportAssignmentType]
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    enlarged = [
        Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BILINEAR) for image in grey
    ]
    images = np.stack([np.asarray(image) for image in enlarged])
    return np.repeat(images[..., None], 3, axis=3), digits.target.astype(np.int32), tuple("0123456789")
