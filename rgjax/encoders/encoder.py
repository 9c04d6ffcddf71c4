"""What an encoder is, and the cache of its features."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rgjax.data import Dataset
from rgjax.data.images import content_of
from rgjax.errors import UserError
from rgjax.storage.files import cache_dir, cached_arrays, digest

_log = logging.getLogger(__name__)


class Encoder(NamedTuple):
    """Computes features.

    Attributes:
        fingerprint: identifies weights and settings, in the names of cached features.
        encode: what it reads of N examples -> features [N, D] float32.
        reads: "inputs" of the data set; "features": inputs that are features; "pictures": the originals, at the
            encoder's own size; "ids".
        about: for provenance.json: name, checkpoint, revision or SHA-256, image size.
    """

    fingerprint: str
    encode: Callable[[Any], np.ndarray]
    reads: str = "inputs"
    about: Mapping[str, Any] = {}

    def record(self, features: np.ndarray) -> dict[str, Any]:
        """What is kept beside the features [N, D] that it computed."""
        return {**self.about, "width": features.shape[1], "fingerprint": self.fingerprint}


GIVEN = Encoder("given", np.asarray, "features", {"name": "data"})  # of a data set of features


def named_dtype(dtype: str) -> tuple[str, ...]:
    """What the dtype of activations adds to a fingerprint: nothing if it is float32."""
    return () if dtype == "float32" else (dtype,)


def features_of(encoder: Encoder, dataset: Dataset) -> np.ndarray:
    """Features of all examples [N, D], so that every split uses the same cached ones.

    Raises UserError for features that are not finite.
    """
    if encoder.reads == "features":
        return dataset.inputs
    if encoder.reads == "ids":
        return encoder.encode(dataset.ids)
    inputs, fingerprint = dataset.inputs, dataset.fingerprint
    if encoder.reads == "pictures" and dataset.pictures is not None:
        inputs, fingerprint = dataset.pictures, content_of(dataset.pictures)
    features = encode_cached(encoder, inputs, fingerprint)
    described = ", ".join(f"{name} {value}" for name, value in encoder.about.items() if value and name != "name")
    _log.info(f"encoder {encoder.about.get('name', '')}: {features.shape[1]} features{described and f' ({described})'}")
    return features


def encode_cached(encoder: Encoder, inputs: Any, fingerprint: str) -> np.ndarray:
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
