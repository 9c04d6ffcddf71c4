"""Configs: how they are made and validated, and which settings tell runs apart."""

import os
from collections.abc import Mapping
from functools import reduce
from typing import Any, TypeAlias

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from rgjax.config.fields import AUTO, CUSTOM, FIELDS, TEXT_DATA, Field
from rgjax.config.methods import FROZEN, HEAD_TRAINING, IMAGE_FINETUNING, METHODS, TEXT_FINETUNING, Point
from rgjax.console import local_path
from rgjax.errors import UserError, unknown

Config: TypeAlias = Any  # a ConfigDict, whose fields are known only at run time


def method_config(method: str, changes: Mapping[str, Any]) -> Config:
    """Make a locked config: defaults, then `changes`, then the method's settings."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    values = {name: setting.default for name, setting in FIELDS.items()}
    values |= {"method": method, "regroup.clustering": "none", **changes, **METHODS[method].settings}
    tree: dict[str, Any] = {}
    for name, value in values.items():
        if name not in FIELDS:
            raise unknown("field", name, FIELDS)
        *sections, leaf = name.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        if FIELDS[name].automatic:
            value = FieldReference(value, field_type=object)  # a number or a word
        section[leaf] = placeholder(FIELDS[name].kind) if value is None else value
    return ConfigDict(tree).lock()


def prepare_training(config: Config, network: str, fields: Mapping[str, Any]) -> Point:
    """Train a head or a pretrained network as such where it replaces a file's.

    The file's settings are those of its network, such as 400 epochs of SGD.

    Args:
        config: with `fields` set.
        network: the file's model.name.
        fields: set by the command line or a grid; they stay.

    Returns:
        The fields that were set, all of `train`: to HEAD_TRAINING, IMAGE_FINETUNING or TEXT_FINETUNING, or their
        defaults. None if no network was replaced.
    """
    name = config.model.name
    if name in FROZEN and network not in FROZEN:
        settings = HEAD_TRAINING
    elif name == "pretrained" and network not in ("bert", "pretrained"):
        settings = TEXT_FINETUNING if config.data.name in TEXT_DATA else IMAGE_FINETUNING
    else:
        return {}
    defaults = {name: setting.default for name, setting in FIELDS.items() if setting.identity}
    training = {**defaults, **settings}
    changes = {name: value for name, value in training.items() if name.startswith("train.") and name not in fields}
    with config.ignore_type():  # None unsets a number
        config.update_from_flattened_dict(changes)
    return changes


def recorded_config(values: Mapping[str, Any]) -> Config:
    """The config in a config.json; fields that it lacks get their defaults."""
    config = method_config("ce", {})
    with config.unlocked(), config.ignore_type():
        config.update(values)
    return config


def value_of(config: Config, name: str) -> Any:
    return reduce(lambda tree, part: tree[part], name.split("."), config)


def identity(config: Config) -> dict[str, Any]:
    """The fields that identify a run: all but paths, trackers and failure policy.

    Custom data add their path. `config` may also be the content of an older config.json: fields that it lacks are None.
    """

    def recorded(name: str) -> Any:
        return reduce(lambda tree, part: (tree or {}).get(part), name.split("."), config)

    values = {name: recorded(name) for name in FIELDS if FIELDS[name].identity}
    if values["data.name"] in CUSTOM and (place := recorded("data.manual_dir")):
        values["data.manual_dir"] = os.path.abspath(local_path(place))
    if values["encoder.pooling"] == AUTO and values["encoder.name"] != "pretrained":
        values["encoder.pooling"] = "mean"  # which it means there, and was the default of earlier versions
    split = values["regroup.clustering"] != "none" and values["sampler"] != "rusc"
    if not split and values["regroup.min_size"] == AUTO:
        values["regroup.min_size"] = 8  # likewise without effect, and custom data's in earlier versions
    if not (split and reads_counts(values)):
        values["loss.stats"] = "pseudo"  # which makes no difference, and was the default of earlier versions
    late = {name for name, setting in FIELDS.items() if setting.late and values.get(name) in (None, setting.default)}
    return {name: value for name, value in values.items() if name not in late}


def reads_counts(values: Mapping[str, Any]) -> bool:
    """Whether a loss weighs classes by their sizes; `values` are those of an identity."""
    deferred = any(values[f"loss.drw_start_{unit}"] is not None for unit in ("steps", "epochs", "percent"))
    return deferred or values["loss.name"] not in ("ce", "focal")


def program_settings(config: Config) -> dict[str, Any]:
    """The identity without what runs of one program may differ in.

    That are traced settings and, for heads on features, those of their tasks.
    """
    differing = {name for name, setting in FIELDS.items() if setting.traced}
    if config.model.name in FROZEN:
        differing |= set(task_settings(config))
    return {name: value for name, value in identity(config).items() if name not in differing}


def task_settings(config: Config) -> dict[str, Any]:
    """The settings that choose and label the training examples of a data set."""
    return {name: value_of(config, name) for name, setting in FIELDS.items() if setting.task}


def validate(config: Config) -> None:
    """Raise UserError for the first field whose value is invalid."""
    for name, setting in FIELDS.items():
        try:
            value = value_of(config, name)
        except (KeyError, TypeError) as error:
            raise UserError(f"config.{name}: missing; make the config by rgjax.config.method_config") from error
        _validate_field(name, setting, value)
    if config.regroup.rule == "target" and config.regroup.threshold < 1:
        raise UserError(
            f"config.regroup.threshold={config.regroup.threshold}: config.regroup.rule=target needs a group size of at "
            "least 1"
        )
    folds, fold = config.data.folds, config.data.fold
    if folds is None and fold:
        raise UserError(f"config.data.fold={fold}: no folds are drawn; set config.data.folds too, such as to 5")
    if folds is not None and fold >= folds:
        raise UserError(f"config.data.fold={fold}: of {folds} folds; choose one from 0 to {folds - 1}")


def _validate_field(name: str, setting: Field, value: Any) -> None:
    if not setting.accepts(value):
        word = f", or '{AUTO}'" if setting.automatic else ""
        raise UserError(f"config.{name}={value!r}: must be of type {setting.kind.__name__}{word}")
    if value is None or (setting.automatic and isinstance(value, str)):  # a string is AUTO, as it was accepted
        return
    if setting.choices is not None:
        for choice in comma_list(value) if setting.several else [value]:
            if choice not in setting.choices:
                raise unknown(f"value of config.{name}", str(choice), setting.choices)
    below = setting.low is not None and not value >= setting.low
    above = setting.high is not None and not value <= setting.high
    if below or above:
        low = "" if setting.low is None else f"at least {setting.low:.12g}"
        high = "" if setting.high is None else f"at most {setting.high:.12g}"
        raise UserError(f"config.{name}={value}: out of range; must be {' and '.join(filter(None, (low, high)))}")


def comma_list(names: str) -> list[str]:
    """The names in a comma-separated list, without duplicates."""
    return list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))
