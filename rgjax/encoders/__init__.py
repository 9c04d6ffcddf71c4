"""Encoders: what turns training inputs into the features that classes are clustered on."""

import numpy as np

from rgjax.encoders.projection import projection
from rgjax.storage import cache_dir, cached_arrays, digest

ENCODERS = {"projection": projection}


def encode(name: str, inputs: np.ndarray, *, fingerprint: str, **settings) -> np.ndarray:
    """Features [N, D] float32 of `inputs` [N, ...] by the encoder `name`, kept on disk by content.

    `fingerprint` stands for the content of `inputs`; `settings` go to the encoder.
    """
    key = digest("features-v1", name, fingerprint, repr(sorted(settings.items())))
    path = cache_dir() / "features" / f"{key}.npz"
    return cached_arrays(path, lambda: {"features": ENCODERS[name](inputs, **settings)})["features"]
