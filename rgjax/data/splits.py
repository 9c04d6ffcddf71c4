"""Splits into train, validation and test, class by class."""

import numpy as np

from rgjax.errors import UserError

SPLITS = ("stratified", "grouped")


def split(kind: str, labels, groups, class_names, *, seed: int, test_fraction: float, val_fraction: float):
    """Sorted int32 rows (train, val, test): `test_fraction` of each class, then `val_fraction` of what remains.

    "stratified" deals out single rows and rounds the larger part down; "grouped" whole groups, which count to
    the class of their first row, so that no group is in two parts. Raises UserError for a class with fewer
    than three units.
    """
    rng = np.random.default_rng(seed)
    units = np.arange(len(labels)) if kind == "stratified" else np.unique(groups, return_inverse=True)[1]
    _, first, sizes = np.unique(units, return_index=True, return_counts=True)
    part = np.empty(len(sizes), np.int8)
    for c, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels[first] == c))
        if len(members) < 3:
            raise UserError(
                f"class '{name}' has {len(members)} {kind} units: a split into three parts needs 3 or more"
            )
        ends = np.cumsum(sizes[members])
        rest = np.floor(ends[-1] * (1 - test_fraction) + 1e-9)
        cut = np.floor(rest * (1 - val_fraction) + 1e-9)
        n_train = np.clip(np.searchsorted(ends, cut, side="right"), 1, len(members) - 2)
        n_rest = np.clip(np.searchsorted(ends, rest, side="right"), n_train + 1, len(members) - 1)
        part[members] = 2
        part[members[:n_rest]] = 1
        part[members[:n_train]] = 0
    return tuple(np.flatnonzero(part[units] == p).astype(np.int32) for p in range(3))
