"""Splits into train, validation and test, drawn class by class."""

import numpy as np

from rgjax.config import Config
from rgjax.data.dataset import Source
from rgjax.errors import UserError, first_few

SPLITS = ("train", "val", "test")
_TRAIN, _VAL, _TEST = range(3)


def split(source: Source, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the examples into train, val and test by `config.split`.

    stratified: examples are drawn at random within each class; the training set is rounded down.
    grouped: whole groups are drawn, so that no group is in two splits. A group has the class of its first example.
    official: the source's test set, and its validation set if it has one; the rest is drawn at random, by group if
        the source has groups.
    auto: the result of `split_strategy`.

    Args:
        source: all examples.
        config: the section `data`: `test_fraction` of each class goes to the test set, then `val_fraction` of the
            remainder to validation; `seed` is the random seed.

    Returns:
        Sorted int32 indices of the three splits.

    Raises:
        UserError: a class is too small, or there is no official test set.
    """
    strategy = split_strategy(source) if config.split == "auto" else config.split
    group_ids = np.unique(source.group_ids, return_inverse=True)[1]
    by_group = strategy == "grouped" or (strategy == "official" and group_ids.max() + 1 < len(group_ids))

    # Official splits are kept.
    splits, num_drawn = np.full(len(group_ids), _TRAIN, np.int8), 3
    test_fraction, val_fraction = config.test_fraction, config.val_fraction
    if strategy == "official":
        splits[_official_test(source)] = _TEST
        num_drawn, test_fraction = 2, 0.0
        if source.official_val is not None:
            splits[source.official_val] = _VAL
            num_drawn, val_fraction = 1, 0.0

    # The rest is drawn by unit: a group or a single example.
    rest = np.flatnonzero(splits == _TRAIN)
    units = group_ids[rest] if by_group else rest
    _, first, unit_of, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    unit_labels = source.labels[rest][first]

    assigned = np.full(len(sizes), _TEST, np.int8)
    rng, too_small = np.random.default_rng(config.seed), []
    for label, name in enumerate(source.class_names):
        members = rng.permutation(np.flatnonzero(unit_labels == label))
        if len(members) < num_drawn:
            too_small.append(f"class '{name}' has {len(members)}")
            continue
        num_train, num_train_val = _cut(sizes[members], num_drawn, test_fraction, val_fraction)
        assigned[members[:num_train_val]] = _VAL
        assigned[members[:num_train]] = _TRAIN
    if too_small:
        kind = ("groups" if by_group else "examples") + (" outside the official splits" if num_drawn < 3 else "")
        names = first_few(too_small)
        raise UserError(
            f"too few {kind}: {names}, and each class needs at least {num_drawn}; add some, or remove the class"
        )
    splits[rest] = assigned[unit_of]
    train, val, test = (np.flatnonzero(splits == number).astype(np.int32) for number in (_TRAIN, _VAL, _TEST))
    return train, val, test


def split_strategy(source: Source) -> str:
    """The strategy that "auto" means.

    official if there is a test set, grouped if any examples share a group, else stratified.
    """
    if source.official_test is not None:
        return "official"
    return "grouped" if len(np.unique(source.group_ids)) < len(source.group_ids) else "stratified"


def _official_test(source: Source) -> np.ndarray:
    if source.official_test is None:
        raise UserError(
            "config.data.split=official: this data set has no official test set; use stratified, grouped or auto"
        )
    if not source.official_test.any():
        raise UserError("the official test set is empty; add examples, or use --config.data.split=stratified")
    return source.official_test


def _cut(sizes: np.ndarray, num_drawn: int, test_fraction: float, val_fraction: float) -> tuple[int, int]:
    """The number of a class's units in train, and in train and val together.

    Each drawn split gets at least one unit.

    Args:
        sizes: number of examples in each unit, in random order.
        num_drawn: how many of the three splits are drawn, train included.
        test_fraction: share of all examples in the test set.
        val_fraction: share of the remaining examples in the validation set.
    """
    ends = np.cumsum(sizes)
    max_train_val = np.floor(ends[-1] * (1 - test_fraction) + 1e-9)  # 1e-9: products such as 0.8 * 5 may fall short
    max_train = np.floor(max_train_val * (1 - val_fraction) + 1e-9)
    last = len(sizes) - num_drawn
    num_train = int(np.clip(np.searchsorted(ends, max_train, side="right"), 1, last + 1))
    num_train_val = int(np.clip(np.searchsorted(ends, max_train_val, side="right"), num_train + 1, last + 2))
    return num_train, num_train_val
