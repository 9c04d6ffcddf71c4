"""Configs and files for tests of data sets."""

from rgjax.config import method_config
from rgjax.data.tables.reader import open_table
from rgjax.errors import UserError


def data_config(name, **changes):
    """The config's section `data` for the data set `name`, with `changes` of its fields."""
    return method_config("ce", {"data.name": name, **{f"data.{field}": value for field, value in changes.items()}}).data


def read_table(file, required):
    """All rows of a table, role -> text. Raises UserError for the first that cannot be read."""
    table = open_table(file)
    rows = list(table.rows(*required))
    if not rows:
        raise UserError(f"{file}: no rows")
    for row in rows:
        if row.fault:
            raise UserError(f"{table.place(row.number)}: {row.fault}")
    return [row.values for row in rows]
