"""Splits into train, validation and test, drawn class by class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rgjax.config import Config
from rgjax.data.dataset import Source
from rgjax.errors import UserError, first_few

SPLITS = ("train", "val", "test")
_TRAIN, _VAL, _TEST, _UNUSED = range(4)


class _Drawn(NamedTuple):
    """The splits that are drawn: how many, and their shares.

    Attributes:
        number: how many of the three, train included.
        test_fraction: share of all examples in the test set.
        val_fraction: share of the remaining examples in the validation set.
        where: from which examples, for messages.
    """

    number: int
    test_fraction: float
    val_fraction: float
    where: str


def split(source: Source, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the examples into train, val and test by `config.split`.

    stratified: examples are drawn at random within each class; the training set is rounded down.
    grouped: whole groups are drawn, so that no group is in two splits. A group has the class of its first example.
    official: the source's test set, and its validation set if it has one; the rest is drawn at random, by group if
        the source has groups.
    auto: the result of `split_strategy`.

    With `config.folds`, the test set is fold number `config.fold` of so many, see `assign_folds`. An official test set
    is then in no split, so that whatever the folds decide has not seen it.

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
    units = group_ids if by_group else np.arange(len(group_ids))
    rng = np.random.default_rng(config.seed)
    splits, drawn = _given_splits(source, config, strategy, units, rng)

    # The rest is drawn by unit: a group or a single example.
    rest = np.flatnonzero(splits == _TRAIN)
    _, first, unit_of, sizes = np.unique(units[rest], return_index=True, return_inverse=True, return_counts=True)
    unit_labels = source.labels[rest][first]
    assigned, too_small = np.full(len(sizes), _TEST, np.int8), []
    for label, name in enumerate(source.class_names):
        members = rng.permutation(np.flatnonzero(unit_labels == label))
        if len(members) < drawn.number:
            too_small.append(f"class '{name}' has {len(members)}")
            continue
        num_train, num_train_val = _cut(sizes[members], drawn)
        assigned[members[:num_train_val]] = _VAL
        assigned[members[:num_train]] = _TRAIN
    if too_small:
        kind = f"{'groups' if by_group else 'examples'} {drawn.where}".strip()
        names = first_few(too_small)
        raise UserError(
            f"too few {kind}: {names}, and each class needs at least {drawn.number}; add some, or remove the class"
        )
    splits[rest] = assigned[unit_of]
    train, val, test = (np.flatnonzero(splits == number).astype(np.int32) for number in (_TRAIN, _VAL, _TEST))
    return train, val, test


def _given_splits(
    source: Source, config: Config, strategy: str, units: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, _Drawn]:
    """The official splits and the test fold [N]; the rest, here train, is to be drawn.

    Args:
        source: all examples.
        config: the section `data`.
        strategy: stratified, grouped or official.
        units: the unit of each example [N]: a group, or itself.
        rng: draws the folds.
    """
    splits = np.full(len(units), _TRAIN, np.int8)
    drawn = _Drawn(3, config.test_fraction, config.val_fraction, "")
    if strategy == "official":
        splits[_official_test(source)] = _TEST if config.folds is None else _UNUSED
        drawn = _Drawn(2, 0.0, config.val_fraction, "outside the official splits")
        if source.official_val is not None and config.folds is None:
            splits[source.official_val] = _VAL
            drawn = drawn._replace(number=1, val_fraction=0.0)
    if config.folds is not None:
        pool = np.flatnonzero(splits == _TRAIN)
        folds = assign_folds(source.labels[pool], units[pool], source.class_names, config.folds, rng)
        splits[pool[folds == config.fold]] = _TEST
        drawn = _Drawn(2, 0.0, config.val_fraction, "outside the test fold")
    return splits, drawn


def assign_folds(
    labels: np.ndarray, unit_ids: np.ndarray, class_names: Sequence[str], num_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Assign whole units to folds, so that each class is spread evenly over them.

    Units come in random order, the largest first. Each joins the fold that keeps the classes' shares of the folds most
    equal: it minimizes the sum over classes and folds of (n_fc / n_c)^2; of equal folds, the smallest.

    Args:
        labels: class indices [N].
        unit_ids: the unit of each example [N]: a group, or itself.
        class_names: of all classes.
        num_folds: how many folds there are.
        rng: draws the order.

    Returns:
        The fold of each example [N].

    Raises:
        UserError: a class is absent from a fold.
    """
    _, unit_of = np.unique(unit_ids, return_inverse=True)
    counts = np.zeros((unit_of.max(initial=-1) + 1, len(class_names)))
    np.add.at(counts, (unit_of, labels), 1)
    sizes = counts.sum(axis=1)
    weights = counts / np.maximum(counts.sum(axis=0), 1) ** 2  # a sum of squares grows by n_fc times these, and more
    order = rng.permutation(len(counts))
    order = order[np.argsort(-sizes[order], kind="stable")]

    fold_of, fold_sizes = np.zeros(len(counts), np.int64), np.zeros(num_folds)
    fold_counts = np.zeros((num_folds, len(class_names)))
    for unit in order:
        fold = np.lexsort((fold_sizes, fold_counts @ weights[unit]))[0]
        fold_of[unit] = fold
        fold_counts[fold] += counts[unit]
        fold_sizes[fold] += sizes[unit]

    if (absent := np.flatnonzero(fold_counts.min(axis=0) == 0)).size:
        kind = "examples" if len(counts) == len(labels) else "groups"
        names = first_few(f"class '{class_names[c]}' has {np.count_nonzero(counts[:, c])}" for c in absent.tolist())
        raise UserError(
            f"config.data.folds={num_folds}: too few {kind}: {names}, and each class must be in every fold; take fewer "
            "folds, add some, or remove the class"
        )
    return fold_of[unit_of]


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


def _cut(sizes: np.ndarray, drawn: _Drawn) -> tuple[int, int]:
    """The number of a class's units in train, and in train and val together.

    Each drawn split gets at least one unit. `sizes` [n] are the examples of the units, in random order.
    """
    ends = np.cumsum(sizes)
    # 1e-9: products such as 0.8 * 5 may fall short.
    max_train_val = np.floor(ends[-1] * (1 - drawn.test_fraction) + 1e-9)
    max_train = np.floor(max_train_val * (1 - drawn.val_fraction) + 1e-9)
    last = len(sizes) - drawn.number
    num_train = int(np.clip(np.searchsorted(ends, max_train, side="right"), 1, last + 1))
    num_train_val = int(np.clip(np.searchsorted(ends, max_train_val, side="right"), num_train + 1, last + 2))
    return num_train, num_train_val
