"""What an encoder is, and the cache of its features."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rgjax.errors import UserError
from rgjax.storage.files import cache_dir, cached_arrays, digest


class Encoder(NamedTuple):
    """Computes features.

    Attributes:
        fingerprint: identifies weights and settings, in the names of cached features.
        encode: inputs [N, ...] -> features [N, D] float32.
    """

    fingerprint: str
    encode: Callable[[np.ndarray], np.ndarray]


def encode_cached(encoder: Encoder, inputs: np.ndarray, fingerprint: str) -> np.ndarray:
    """Features of the inputs, from the cache if they were computed before.

    Args:
        encoder: computes them.
        inputs: [N, ...].
        fingerprint: identifies the inputs' content.

    Returns:
        [N, D] float32.

    Raises:
        UserError: for features that are not finite.
    """

    def compute() -> dict[str, np.ndarray]:
        features = encoder.encode(inputs)
        if not np.isfinite(features).all():
            raise UserError("the encoder's features are not finite; its weights may be corrupted")
        return {"features": features}

    path = cache_dir() / "features" / f"{digest('features-v2', encoder.fingerprint, fingerprint)}.npz"
    return cached_arrays(path, compute)["features"]
