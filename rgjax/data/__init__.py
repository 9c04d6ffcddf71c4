"""Data sets by name."""

import numpy as np

from rgjax.data import digits
from rgjax.data.dataset import Dataset as Dataset
from rgjax.data.splits import split
from rgjax.storage import digest

SOURCES = {"digits": digits.load}


def load(
    name: str,
    *,
    image_size: int,
    split_kind: str,
    positive: str,
    seed: int,
    test_fraction: float,
    val_fraction: float,
) -> Dataset:
    """The data set `name`, split on its original labels, and then seen as `positive` against the rest if given."""
    inputs, labels, class_names = SOURCES[name](image_size)
    rows = np.arange(len(labels), dtype=np.int32)
    train, val, test = split(
        split_kind,
        labels,
        rows,
        class_names,
        seed=seed,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
    )
    ids = rows.astype(str)
    dataset = Dataset(name, inputs, labels, class_names, rows, ids, train, val, test, digest(inputs, labels))
    return dataset.one_vs_rest(positive) if positive else dataset
