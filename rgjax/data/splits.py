"""Splits into train, validation and test, class by class."""

import numpy as np

from rgjax.data.dataset import Source
from rgjax.errors import UserError, first_few

SPLITS = ("stratified", "grouped", "official", "auto")


def split(source: Source, kind: str, *, seed: int, test_fraction: float, val_fraction: float):
    """Sorted int32 rows (train, val, test): `test_fraction` of each class, then `val_fraction` of what remains.

    "stratified" deals out single rows and rounds the larger part down. "grouped" deals out whole groups, which
    count to the class of their first row, so that no group is in two parts. "official" keeps the source's own
    test set, and validation set if it has one, and deals out the rest, by groups where rows share one. "auto" is
    what `automatic` says. Raises UserError for a class that is too small.
    """
    if kind == "auto":
        kind = automatic(source)
    groups = np.unique(source.groups, return_inverse=True)[1]
    shared = groups.max() + 1 < len(groups)
    part = np.zeros(len(groups), np.int8)  # 0 train, 1 validation, 2 test
    needed = 3
    if kind == "official":
        if source.official_test is None:
            others = ", ".join(other for other in SPLITS if other != kind)
            raise UserError(f"config.data.split={kind}: this data set has no official test set; use {others}")
        if not source.official_test.any():
            raise UserError("the official test set has no rows: add some, or use --config.data.split=stratified")
        part[source.official_test] = 2
        needed, test_fraction = 2, 0.0
        if source.official_val is not None:
            part[source.official_val] = 1
            needed, val_fraction = 1, 0.0

    rows = np.flatnonzero(part == 0)
    labels, whole = source.labels[rows], kind == "grouped" or (kind == "official" and shared)
    units = groups[rows] if whole else rows
    _, first, units, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    given = np.full(len(sizes), 2, np.int8)
    rng, few = np.random.default_rng(seed), []
    for c, name in enumerate(source.class_names):
        members = rng.permutation(np.flatnonzero(labels[first] == c))
        if len(members) < needed:
            few.append(f"class '{name}' has {len(members)} {'groups' if whole else 'rows'}")
            continue
        ends = np.cumsum(sizes[members])
        rest = np.floor(ends[-1] * (1 - test_fraction) + 1e-9)
        cut = np.floor(rest * (1 - val_fraction) + 1e-9)
        n_train = np.clip(np.searchsorted(ends, cut, side="right"), 1, len(members) - needed + 1)
        n_rest = np.clip(np.searchsorted(ends, rest, side="right"), n_train + 1, len(members) - needed + 2)
        given[members[:n_rest]] = 1
        given[members[:n_train]] = 0
    if few:
        beside = " beside the official sets" if kind == "official" else ""
        raise UserError(
            f"{first_few(few)}{beside}: a split into {needed} parts needs {needed} or more; add "
            "some, or remove the class"
        )
    part[rows] = given[units]
    return tuple(np.flatnonzero(part == p).astype(np.int32) for p in range(3))


def automatic(source: Source) -> str:
    """The kind of split that suits the source: official where it has a test set, else grouped where rows share a group,
    else stratified."""
    if source.official_test is not None:
        return "official"
    return "grouped" if len(np.unique(source.groups)) < len(source.groups) else "stratified"
