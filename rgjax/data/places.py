"""Find the tables in a folder of custom data, and the splits that their names say."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rgjax.console import local_path
from rgjax.data.folders import entries, is_image_file, visible
from rgjax.data.listing import SPLIT_NAMES
from rgjax.data.pictures.npz import is_npz
from rgjax.data.tables.reader import COMPRESSED, READ, is_metadata, is_table, open_table
from rgjax.errors import UserError, first_few


class Place(NamedTuple):
    """Where custom data lie.

    Attributes:
        where: the folder or the table.
        tables: the tables, none for a folder of images.
        splits: the split of each table, or None if the tables are no splits.
    """

    where: Path
    tables: tuple[Path, ...] = ()
    splits: tuple[str, ...] | None = None


def locate(name: str) -> Place:
    """Find the folder or the tables called `name`.

    A folder with one table and no class folders stands for this table. A folder with tables such as train.csv and
    test.csv stands for these, and so does one with split folders that hold tables. All of it may lie in its only
    folder, such as data/. Raises UserError if it is ambiguous or holds nothing.
    """
    if not name:
        raise UserError(
            "--config.data.manual_dir is missing; pass a folder with one subfolder per class, or a table (.csv, .tsv, "
            ".jsonl, .parquet) with the columns path,label or text,label"
        )
    path = local_path(name)
    if path.is_file():
        if is_npz(path):
            return Place(path)
        if path.suffix.lower() in READ:
            return Place(path, (path,))
        fix = "; unpack it" if path.suffix.lower() in COMPRESSED else f"; export the table as {READ[0]}"
        raise UserError(f"{path}: neither a folder nor a table ({', '.join(READ)}){fix}")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or table")
    place = _tables_of(path)
    folders = visible(entries(path)[0])
    if not place.tables and len(folders) == 1:
        inner = _tables_of(Path(folders[0]))
        place = inner if inner.tables else place
    return place._replace(where=path) if len(place.tables) > 1 else place


def split_of(stem: str) -> str | None:
    """The split in a table's name, as in train-0-of-2 or reviews_test, or None."""
    words = re.split(r"[\W\d_]+", stem.lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _tables_of(path: Path) -> Place:
    folders, files = entries(path)
    folders = visible(folders)
    paths = [Path(file) for file in files]
    tables = [file for file in paths if is_table(file)]
    metadata = [file for file in tables if is_metadata(file) and "path" in open_table(file).roles]
    if len(metadata) == 1:
        return Place(metadata[0], (metadata[0],))
    if tables_in_splits := _tables_in_splits(folders):
        return _splits(path, tables_in_splits)
    splits = {file: split for file in paths if file.suffix.lower() in READ and (split := split_of(file.stem))}
    if len(splits) > 1 and splits.keys() >= set(tables):
        return _splits(path, splits)
    if len(tables) == 1 and len(folders) < 2:
        return Place(tables[0], (tables[0],))
    if not tables:
        arrays = [file for file in paths if is_npz(file)]
        return Place(arrays[0] if len(arrays) == 1 and not folders else path)
    beside = "" if len(folders) < 2 else f" beside {len(folders)} folders"
    raise UserError(
        f"{path}: holds {first_few(table.name for table in tables)}{beside}; pass a table, e.g. {tables[0]}, or name "
        "the tables train, test and optionally val, or, if the folders are classes, move the tables elsewhere"
    )


def _tables_in_splits(folders: Sequence[str]) -> dict[Path, str]:
    """The tables in split folders: an imagefolder's, parquet files, or tables alone."""
    tables: dict[Path, str] = {}
    without = []
    for folder in map(Path, folders):
        if split := SPLIT_NAMES.get(folder.name.lower()):
            below, names = entries(folder)
            files = [Path(name) for name in names]
            inside = [file for file in files if is_metadata(file)]
            inside = inside or [file for file in files if file.suffix.lower() == ".parquet"]
            if not visible(below) and not any(map(is_image_file, names)):
                inside = inside or list(filter(is_table, files))
            tables |= dict.fromkeys(inside, split)
            without += [] if inside else [folder]
    if tables and without:
        raise UserError(f"{without[0]}: no table, but there is {next(iter(tables))}; add one, or remove the folder")
    return tables


def _splits(folder: Path, splits: dict[Path, str]) -> Place:
    files: dict[str, list[Path]] = defaultdict(list)
    for file, split in splits.items():
        files[split].append(file)
    for split, parts in files.items():
        _require_shards(folder, split, parts)
    if files.keys() == {"train", "val"}:
        raise UserError(
            f"{folder}: tables for training and validation, but none for testing; add one, or rename the validation "
            "table to 'test' (validation examples are then drawn from the training set)"
        )
    if len(files) > 1 and not files.keys() >= {"train", "test"}:
        raise UserError(f"{folder}: holds {first_few(file.name for file in splits)}, but no table for training; add it")
    tables = sorted(splits, key=lambda file: ("train val test".index(splits[file]), file))
    return Place(folder, tuple(tables), tuple(map(splits.__getitem__, tables)) if len(files) > 1 else None)


def _require_shards(folder: Path, split: str, files: Sequence[Path]) -> None:
    """Raise UserError unless the files are parts of one table, all of them there."""
    if len({re.sub(r"\d+", "0", file.name) for file in files}) > 1:
        names = first_few(file.name for file in files)
        raise UserError(f"{folder}: several tables for the split '{split}': {names}; move all but one elsewhere")
    for file in files:
        if (shard := re.search(r"-of-(\d+)$", file.stem)) and int(shard[1]) != len(files):
            raise UserError(f"{folder}: {len(files)} of {int(shard[1])} tables of the split '{split}'; add the others")
