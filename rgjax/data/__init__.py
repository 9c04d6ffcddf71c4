"""Data sets by name."""

import importlib

from rgjax.data.dataset import Dataset as Dataset
from rgjax.data.splits import split

# Each is a module of this package with a `load`; imported when asked for, as TFDS takes its time.
SOURCES = ("digits", "ham10000", "cifar100")


def load(
    name: str,
    *,
    image_size: int,
    manual_dir: str,
    data_dir: str,
    split_kind: str,
    positive: str,
    seed: int,
    test_fraction: float,
    val_fraction: float,
) -> Dataset:
    """The data set `name`, split on its original labels, and then seen as `positive` against the rest if given.

    `manual_dir` is where the user's download lies, `data_dir` where prepared data sets go (TFDS's if empty).
    """
    source = importlib.import_module(f"rgjax.data.{name}").load(
        image_size=image_size, manual_dir=manual_dir, data_dir=data_dir
    )
    train, val, test = split(source, split_kind, seed=seed, test_fraction=test_fraction, val_fraction=val_fraction)
    dataset = Dataset(
        name=name,
        inputs=source.inputs,
        labels=source.labels,
        class_names=source.class_names,
        ids=source.ids,
        train=train,
        val=val,
        test=test,
        fingerprint=source.fingerprint,
    )
    return dataset.one_vs_rest(positive) if positive else dataset
