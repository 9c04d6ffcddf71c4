"""Custom features: vectors of any origin with their labels, and nothing to encode."""

from dataclasses import replace

import numpy as np

from rgjax.config import Config
from rgjax.data.custom import official_splits, require_classes
from rgjax.data.dataset import Source
from rgjax.data.feature_file import FeatureFile, read_features
from rgjax.data.listing import SPLIT_NAMES, Listing, class_notes, counted, is_missing, normal_label, normal_subclasses
from rgjax.errors import UserError, first_few
from rgjax.storage.files import digest


def load(config: Config) -> Source:
    """The features float32 [N, D] of the file `config.manual_dir`."""
    if config.columns:
        raise UserError(
            f"config.data.columns={config.columns}: a file of features has fixed names (features, labels, ids, groups, "
            "splits, subclasses); rename them, and leave the option out"
        )
    file = read_features(config.manual_dir, "config.data.manual_dir")
    listing = list_features(file)
    source = listing.source(file.features, digest("features", file.features, *listing.labels, *listing.ids))
    # Classes have the file's order, where it has one.
    names = dict.fromkeys(name for name in map(normal_label, file.class_names or ()) if name in source.class_names)
    class_names = tuple(names) or source.class_names
    indices = np.array([class_names.index(name) for name in source.class_names], np.int32)
    return replace(source, labels=indices[source.labels], class_names=class_names)


spec = load  # the file is the data


def list_features(file: FeatureFile) -> Listing[int]:
    """The examples of a file of features. Raises UserError for bad labels and splits."""
    labels = _class_labels(file)
    places = [f"id {identity}" for identity in file.ids]
    groups = file.columns.get("group")
    listing = Listing(
        file.path,
        range(len(file.features)),
        file.ids,
        [normal_label(label) for label in labels],
        groups and [group or f"id {identity}" for group, identity in zip(groups, file.ids, strict=True)],
        official_splits(file.path, _splits(file)),
        class_notes(labels, places),
        subclasses=normal_subclasses(file.columns.get("subclass", [])),
    )
    return require_classes(listing)


def _splits(file: FeatureFile) -> list[str]:
    """The split of each example, "" where it has none."""
    splits = file.columns.get("split", [])
    if unknown := sorted(set(map(str.lower, splits)) - {*SPLIT_NAMES, ""}):
        raise UserError(f"{file.path}: unknown split {first_few(unknown)}; use train, val or test")
    return [SPLIT_NAMES.get(name.lower(), "") for name in splits]


def _class_labels(file: FeatureFile) -> list[str]:
    """The class name of each example."""
    if "label" not in file.columns:
        raise UserError(f"{file.path}: no labels; add an array or column of integers or class names")
    labels, names = file.columns["label"], file.class_names
    examples = zip(file.ids, labels, strict=True)
    if missing := [identity for identity, label in examples if not label or is_missing(label)]:
        raise UserError(f"{file.path}: {counted(missing, 'missing label')}: {first_few(missing)}; add or remove these")
    if names is None or set(labels) <= set(names):
        return labels
    name_of = {str(index): name for index, name in enumerate(names)}
    if unknown := sorted(set(labels) - name_of.keys()):
        raise UserError(
            f"{file.path}: label {first_few(unknown)} is none of the {len(names)} class_names; add its name"
        )
    return [name_of[label] for label in labels]
