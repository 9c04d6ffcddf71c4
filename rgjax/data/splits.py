"""Splits into train, validation and test, class by class."""

import numpy as np

from rgjax.data.dataset import Source
from rgjax.errors import UserError

SPLITS = ("stratified", "grouped", "official")


def split(source: Source, kind: str, *, seed: int, test_fraction: float, val_fraction: float):
    """Sorted int32 rows (train, val, test): `test_fraction` of each class, then `val_fraction` of what remains.

    "stratified" deals out single rows and rounds the larger part down. "grouped" deals out whole groups, which
    count to the class of their first row, so that no group is in two parts. "official" keeps the source's own
    test set and deals out the rest by single rows. Raises UserError for a class that is too small.
    """
    units = np.arange(len(source.labels))
    held_out = np.zeros(len(units), bool)
    if kind == "grouped":
        units = np.unique(source.groups, return_inverse=True)[1]
    elif kind == "official":
        if source.official_test is None:
            others = ", ".join(other for other in SPLITS if other != kind)
            raise UserError(f"config.data.split={kind}: this data set has no official test set; use {others}")
        held_out, test_fraction = source.official_test, 0.0

    _, first, sizes = np.unique(units, return_index=True, return_counts=True)
    part = np.full(len(sizes), 2, np.int8)  # 0 train, 1 validation, 2 test
    needed = 2 if kind == "official" else 3
    rng = np.random.default_rng(seed)
    for c, name in enumerate(source.class_names):
        members = rng.permutation(np.flatnonzero((source.labels[first] == c) & ~held_out[first]))
        if len(members) < needed:
            what = "groups" if kind == "grouped" else "rows"
            raise UserError(
                f"class '{name}' has {len(members)} {what}: a split into {needed} parts needs {needed} or more"
            )
        ends = np.cumsum(sizes[members])
        rest = np.floor(ends[-1] * (1 - test_fraction) + 1e-9)
        cut = np.floor(rest * (1 - val_fraction) + 1e-9)
        n_train = np.clip(np.searchsorted(ends, cut, side="right"), 1, len(members) - needed + 1)
        n_rest = np.clip(np.searchsorted(ends, rest, side="right"), n_train + 1, len(members) - needed + 2)
        part[members[:n_rest]] = 1
        part[members[:n_train]] = 0
    return tuple(np.flatnonzero(part[units] == p).astype(np.int32) for p in range(3))
