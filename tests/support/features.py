"""Files of features for tests: three classes that overlap."""

from pathlib import Path

import numpy as np


def blobs(counts=(200, 100, 40), width=6, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [N, width] around a center for each class, and labels [N]."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centers = 0.3 * rng.standard_normal((len(counts), width))
    features = centers[labels] + rng.standard_normal((len(labels), width)) * np.logspace(-0.5, 0.5, width) + 3
    return features.astype(np.float32), labels


def write_features(path: Path, **changes) -> Path:
    """An .npz file of `blobs`; `changes` add, replace or remove (None) arrays."""
    features, labels = blobs()
    arrays = {
        "features": features,
        "labels": labels,
        "ids": np.array([f"e{i}" for i in range(len(labels))]),
        "class_names": np.array(["zebra", "ape", "cat"]),
    }
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path
