"""Configs and files for tests of data sets."""

from rgjax.config import method_config


def data_config(name, **changes):
    """The config's section `data` for the data set `name`, with `changes` of its fields."""
    return method_config("ce", {"data.name": name, **{f"data.{field}": value for field, value in changes.items()}}).data
