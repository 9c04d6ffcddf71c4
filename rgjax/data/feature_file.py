"""Features that users bring: a vector for each example in an .npz or parquet file."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rgjax.console import local_path
from rgjax.data.listing import counted
from rgjax.data.pictures.npz import is_npz, npz_arrays, reading_npz
from rgjax.data.tables.parquet import open_parquet, read_vectors
from rgjax.errors import UserError, first_few

# What an array or a column may be called, by its role.
_NAMES = {
    "id": ("ids", "id"),
    "label": ("labels", "label"),
    "group": ("groups", "group"),
    "split": ("splits", "split"),
    "subclass": ("subclasses", "subclass"),
}
SUFFIXES = (".npz", ".parquet")


class FeatureFile(NamedTuple):
    """Features of N examples and what the file says of them.

    Attributes:
        path: the file.
        features: [N, D] float32, finite.
        ids: a unique name for each example; row numbers from 1 if the file has none.
        columns: by role (label, group, split, subclass) the text of each example, "" for a missing one.
        class_names: the names that the file gives to integer labels, in order.
        numbered: the ids are row numbers.
    """

    path: Path
    features: np.ndarray
    ids: list[str]
    columns: dict[str, list[str]]
    class_names: list[str] | None
    numbered: bool


def holds_features(path: Path) -> bool:
    """Whether a file is one of features. Raises UserError if it is damaged."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return False
    return "features" in (npz_arrays(path, any_order=True) if is_npz(path) else open_parquet(path).nested)


def read_features(name: str, flag: str) -> FeatureFile:
    """Read a file of features.

    An .npz file has the arrays features [N, D] and optionally ids, labels, groups, splits and subclasses [N], and
    class_names [C]; a parquet file has the columns features (lists of numbers), id, label, group, split and subclass.
    Both accept the singular and the plural.

    Args:
        name: the path.
        flag: the field of the config that names it, for messages.

    Raises:
        UserError: for a file that cannot be read, features that are not finite, and ids that repeat.
    """
    path = local_path(name)
    if not name or not path.is_file() or path.suffix.lower() not in SUFFIXES:
        problem = "no such file" if name and not path.exists() else "not a file of features"
        raise UserError(f"{flag}={name}: {problem}; give .npz or .parquet with features [N, D] and ids or labels [N]")
    features, columns, class_names = (_read_npz if is_npz(path) else _read_parquet)(path)
    for role, values in columns.items():
        if len(values) != len(features):
            raise UserError(f"{path}: {len(values)} {role}s for {len(features)} features; give one for each")
    given = columns.pop("id", None)
    ids = given or [str(number) for number in range(1, len(features) + 1)]
    _require_finite(path, features, ids)
    _require_unique(path, ids)
    return FeatureFile(path, features, ids, columns, class_names, not given)


def _read_npz(path: Path) -> tuple[np.ndarray, dict[str, list[str]], list[str] | None]:
    arrays = npz_arrays(path, any_order=True)
    if "features" not in arrays:
        raise UserError(f"{path}: no array 'features'; arrays: {first_few(arrays, limit=20) or 'none'}")
    kind, shape = arrays["features"]
    if len(shape) != 2 or not all(shape) or kind.kind not in "fiub":
        raise UserError(f"{path}: features is {kind} {list(shape)}; it must be numbers of shape [N, D]")
    with reading_npz(path), np.load(path, allow_pickle=False) as content:
        names = {role: name for role, choices in _NAMES.items() for name in choices if name in arrays}
        columns = {role: _texts(path, name, content[name]) for role, name in names.items()}
        class_names = _texts(path, "class_names", content["class_names"]) if "class_names" in arrays else None
        with np.errstate(over="ignore"):  # what becomes infinite is reported
            return np.ascontiguousarray(content["features"], np.float32), columns, class_names


def _texts(path: Path, name: str, values: np.ndarray) -> list[str]:
    """The values as text; 1.0 becomes 1, and NaN is missing."""
    if values.ndim != 1 or values.dtype.kind not in "biufU":
        raise UserError(f"{path}: {name} is {values.dtype} {list(values.shape)}; it must be integers or text, one row")
    if values.dtype.kind == "f":
        return ["" if x != x else str(int(x)) if x.is_integer() else str(x) for x in values.tolist()]
    return [str(value).strip() for value in values.tolist()]


def _read_parquet(path: Path) -> tuple[np.ndarray, dict[str, list[str]], None]:
    table = open_parquet(path)
    if "features" not in table.columns:
        raise UserError(f"{path}: no column 'features'; columns: {first_few(table.columns, limit=20) or 'none'}")
    names = {role: name for role, choices in _NAMES.items() for name in choices if name in table.columns}
    if nested := [name for name in names.values() if name in table.nested]:
        kind = table.nested[nested[0]]
        raise UserError(f"{path}: column '{nested[0]}' is of type {kind}; it must be text or a number")
    texts = zip(names, table.texts(list(names.values())), strict=True)
    return read_vectors(path, "features"), {role: [text.strip() for text in column] for role, column in texts}, None


def _require_finite(path: Path, features: np.ndarray, ids: Sequence[str]) -> None:
    # A sum is finite only if all of its terms are; it may overflow otherwise, so it only spares the search.
    if np.isfinite(features.sum(dtype=np.float64)):
        return
    bad = [ids[int(row)] for row in np.flatnonzero(~np.isfinite(features).all(axis=1))]
    if bad:
        raise UserError(f"{path}: the features of {first_few(bad)} are not finite in float32; repair or remove them")


def _require_unique(path: Path, ids: Sequence[str]) -> None:
    unique, counts = np.unique(np.array(ids), return_counts=True)
    if "" in unique:
        raise UserError(f"{path}: {list(ids).count('')} of {len(ids)} ids are empty; give each example one")
    if len(unique) < len(ids):
        repeated = unique[counts > 1].tolist()
        raise UserError(f"{path}: {counted(repeated, 'repeated id')}: {first_few(repeated)}; keep one of each")
