"""Data sets by name."""

import importlib
import os
from inspect import signature
from pathlib import Path
from typing import Any

from rgjax.data.dataset import Dataset as Dataset
from rgjax.data.splits import split
from rgjax.data.tables import is_table
from rgjax.storage import local

OWN = ("images", "text")  # someone's own data, which only their place tells apart
# Each is a module of this package with a `load` and an `outline`; imported when asked for, as TFDS takes its time.
SOURCES = ("digits", "ham10000", "cifar100", "phrasebank", *OWN)


def called(name: str, manual_dir: str) -> str:
    """What people call the data set `name`: someone's own by its folder or table."""
    if name not in OWN or not manual_dir:
        return name
    path = Path(os.path.abspath(local(manual_dir)))
    return (path.stem if is_table(path) else path.name) or name


def load(
    name: str,
    *,
    split_kind: str,
    positive: str,
    seed: int,
    test_fraction: float,
    val_fraction: float,
    outline: bool = False,
    **options,
) -> Dataset:
    """The data set `name`, split on its original labels, and then seen as `positive` against the rest if given.

    Of the `options` each source takes those that it needs: `manual_dir`, where the user's download lies, `data_dir`,
    where prepared data sets go (TFDS's if empty), `image_size`, `agreement`, `unreadable`, and `official_test`,
    whether the split is by that set. An `outline` has the data set's size, classes and split, but no content, and needs
    no download; its grouped split is a row or two off the real one.
    """
    module = importlib.import_module(f"rgjax.data.{name}")
    options["official_test"] = split_kind == "official"
    how: dict[str, Any] = {"seed": seed, "test_fraction": test_fraction, "val_fraction": val_fraction}

    def taken(load_source):
        return load_source(**{option: options[option] for option in signature(load_source).parameters.keys() & options})

    if name in OWN and not outline:
        split(taken(module.outline), split_kind, **how)  # a class that is too small is told before all is decoded
    source = taken(module.outline if outline else module.load)
    train, val, test = split(source, split_kind, **how)
    dataset = Dataset(
        name=called(name, options.get("manual_dir", "")),
        inputs=source.inputs,
        labels=source.labels,
        class_names=source.class_names,
        ids=source.ids,
        train=train,
        val=val,
        test=test,
        fingerprint=source.fingerprint,
        notes=source.notes,
    )
    return dataset.one_vs_rest(positive) if positive else dataset
