"""Data sets by name."""

import importlib
import inspect

from rgjax.data.dataset import Dataset as Dataset
from rgjax.data.splits import split

# Each is a module of this package with a `load` and an `outline`; imported when asked for, as TFDS takes its time.
SOURCES = ("digits", "ham10000", "cifar100", "phrasebank")


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
    where prepared data sets go (TFDS's if empty), `image_size`, `agreement`. An `outline` has the data set's size,
    classes and split, but no content, and needs no download; its grouped split is a row or two off the real one.
    """
    module = importlib.import_module(f"rgjax.data.{name}")
    load_source = module.outline if outline else module.load
    taken = inspect.signature(load_source).parameters.keys() & options.keys()
    source = load_source(**{option: options[option] for option in taken})
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
