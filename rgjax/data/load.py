"""Load a data set by its name and split it."""

import importlib
import json
import os
from pathlib import Path

from rgjax.config import CUSTOM, Config
from rgjax.console import local_path
from rgjax.data.dataset import Dataset
from rgjax.data.notes import note
from rgjax.data.pictures.npz import is_npz
from rgjax.data.splits import split
from rgjax.data.tables.reader import READ
from rgjax.errors import UserError
from rgjax.storage.memory import kept

_OF_SPLIT = ("seed", "folds", "fold")  # fields of the section `data` that no source reads


def display_name(name: str, manual_dir: str) -> str:
    """The name of a data set in messages: custom data are named after their folder."""
    if name not in CUSTOM or not manual_dir:
        return name
    path = Path(os.path.abspath(local_path(manual_dir)))
    return (path.stem if path.suffix.lower() in READ or is_npz(path) else path.name) or name


def load_data(config: Config, *, spec: bool = False) -> Dataset:
    """Load the data set that the config's section `data` names, and split it.

    The split is drawn on the original labels; then `config.positive` selects one class against the rest.

    Args:
        config: the section `data`. `config.name` is a module of this package with the functions `load` and `spec`,
            which map the section to a Source.
        spec: return sizes and classes without content or download. A grouped split may differ by one example.

    Raises:
        UserError: if the data cannot be read.
    """
    if config.columns and config.name not in CUSTOM:
        raise UserError(f"config.data.columns={config.columns}: {config.name} is no custom table; leave the option out")
    module = importlib.import_module(f"rgjax.data.{config.name}")  # on demand: TFDS takes seconds to import
    settings = json.dumps({name: value for name, value in config.items() if name not in _OF_SPLIT})
    source = module.spec(config) if spec else kept("source", settings, lambda: module.load(config))
    train, val, test = split(source, config)
    unused = len(source.labels) - len(train) - len(val) - len(test)  # an official test set, beside folds
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
        notes=(*source.notes, *note("outside_folds", (), unused)),
        subclasses=source.subclasses,
        pictures=source.pictures,
    )
    return dataset.one_vs_rest(config.positive) if config.positive else dataset
