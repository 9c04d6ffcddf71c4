"""scikit-learn's 1,797 handwritten digits, enlarged; they need no download."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from rgjax.config import Config
from rgjax.data.dataset import Source
from rgjax.data.pictures.decode import resampling
from rgjax.storage.files import digest


def load(config: Config) -> Source:
    """Images uint8 [1797, S, S, 3] of ten classes, S = `config.image_size`."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    gray = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    size = (config.image_size, config.image_size)
    enlarged = [np.asarray(Image.fromarray(image).resize(size, resampling(config.interpolation))) for image in gray]
    inputs = np.repeat(np.stack(enlarged)[..., None], 3, axis=3)
    indices = np.arange(len(labels))
    return Source(
        inputs=inputs,
        labels=labels.astype(np.int32),
        class_names=tuple("0123456789"),
        group_ids=indices,
        ids=indices.astype(str),
        official_test=None,
        fingerprint=digest(inputs, labels),
        pictures=list(gray),
    )


spec = load  # needs no download
