"""Data sets by name, split and seen as the config asks."""

import importlib
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from rgjax.config import CUSTOM
from rgjax.console import local_path
from rgjax.data.dataset import Dataset, Source
from rgjax.data.splits import split
from rgjax.data.tables import is_table

# Each is a module of this package with a `load` and a `spec`; imported when asked for, because TFDS takes seconds.
SOURCES = ("digits", "ham10000", "cifar100", "phrasebank", *CUSTOM)


def display_name(name: str, manual_dir: str) -> str:
    """What people call the data set: custom data by its folder or table."""
    if name not in CUSTOM or not manual_dir:
        return name
    path = Path(os.path.abspath(local_path(manual_dir)))
    return (path.stem if is_table(path) else path.name) or name


def load_data(config: Any, *, spec: bool = False) -> Dataset:
    """The data set of the config's section `data`, split on its original labels, perhaps one class against the rest.

    Args:
        config: the section `data`. Each source takes those of its settings that it needs.
        spec: only size, classes and split, without content or download; a grouped split may be off by an example.
    """
    module = importlib.import_module(f"rgjax.data.{config.name}")
    how: dict[str, Any] = {name: config[name] for name in ("seed", "test_fraction", "val_fraction")}
    if config.name in CUSTOM and not spec:
        split(_call(module.spec, config), config.split, **how)  # refuses too small a class before all is decoded
    source = _call(module.spec if spec else module.load, config)
    train, val, test = split(source, config.split, **how)
    dataset = Dataset(
        name=display_name(config.name, config.manual_dir),
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
    return dataset.one_vs_rest(config.positive) if config.positive else dataset


def _call(load_source: Callable[..., Source], config: Any) -> Source:
    """Call a source's function with the settings that it asks for."""
    options = dict(config) | {"official_test": config.split == "official"}
    return load_source(**{name: options[name] for name in signature(load_source).parameters.keys() & options})
