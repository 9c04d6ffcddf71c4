"""Encoders: what turns training inputs into the features that classes are clustered on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rgjax.errors import UserError
from rgjax.storage.files import cache_dir, cached_arrays, digest


class Encoder(NamedTuple):
    """`encode` turns inputs [N, ...] into features [N, D] float32; `fingerprint` stands for weights and settings."""

    fingerprint: str
    encode: Callable[[np.ndarray], np.ndarray]


def encode_cached(encoder: Encoder, inputs: np.ndarray, fingerprint: str) -> np.ndarray:
    """Features [N, D] float32 of `inputs` [N, ...], whose content `fingerprint` stands for; kept on disk by content."""

    def compute() -> dict[str, np.ndarray]:
        found = encoder.encode(inputs)
        if not np.isfinite(found).all():
            raise UserError("the encoder gives features that are not finite: its weights may be damaged")
        return {"features": found}

    path = cache_dir() / "features" / f"{digest('features-v2', encoder.fingerprint, fingerprint)}.npz"
    return cached_arrays(path, compute)["features"]
