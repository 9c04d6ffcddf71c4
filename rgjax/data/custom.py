"""List the examples in a custom folder or table, before anything is decoded."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rgjax.console import local_path
from rgjax.data.folders import entries, images_of_folder, visible
from rgjax.data.listing import SPLIT_NAMES, Item, Listing, counted, normal_label
from rgjax.data.npz import is_npz
from rgjax.data.packed import Packed, images_of_npz
from rgjax.data.tables import is_table, read_table
from rgjax.errors import UserError, first_few


def locate(name: str) -> Path:
    """The folder or table called `name`.

    For a folder with one table and no class folders, it is that table. Raises UserError if the path does not exist or
    is ambiguous.
    """
    if not name:
        raise UserError(
            "--config.data.manual_dir is missing; pass a folder with one subfolder per class, or a table (.csv, .tsv, "
            ".jsonl) with the columns path,label or text,label"
        )
    path = local_path(name)
    if path.is_file() and (is_table(path) or is_npz(path)):
        return path
    if path.is_file():
        raise UserError(f"{path}: neither a folder nor a table (.csv, .tsv, .jsonl)")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or table")
    folders, files = entries(path)
    folders, tables = visible(folders), [Path(file) for file in files if is_table(Path(file))]
    if not tables:
        arrays = [Path(file) for file in files if is_npz(Path(file))]
        return arrays[0] if len(arrays) == 1 and not folders else path
    if len(tables) == 1 and len(folders) < 2:
        return tables[0]
    beside = "" if len(folders) < 2 else f" beside {len(folders)} folders"
    raise UserError(
        f"{path}: holds {first_few(table.name for table in tables)}{beside}; pass a table, e.g. {tables[0]}, or, if "
        "the folders are classes, move the tables elsewhere"
    )


def list_images(name: str) -> Listing[Path | Packed]:
    """List the images of a folder or table.

    A folder holds CLASS/**, or train/CLASS/**, test/CLASS/** and optionally val/CLASS/**. A table has the columns path
    (relative to the table's folder), label and optionally group and split. Hidden files and folders below the class
    folders are ignored. Links are followed, but each folder is read once. Raises UserError.
    """
    where = locate(name)
    if where.is_dir():
        return _require_classes(images_of_folder(where))
    if is_npz(where):
        return _require_classes(images_of_npz(where))
    listing = _read_listing(where, "path", lambda row: os.path.normpath(row["path"].strip()))
    paths = [where.parent / identity for identity in listing.ids]
    if missing := [path for path in paths if not os.path.isfile(path)]:  # Path.is_file may raise for a long name
        raise UserError(
            f"{where}: {len(missing)} of {len(paths)} images do not exist: {first_few(missing)}; paths are relative to "
            "the table's folder"
        )
    return _require_classes(Listing(where, paths, listing.ids, listing.labels, listing.group_ids, listing.splits))


def list_sentences(name: str) -> Listing[str]:
    """List the sentences of a table.

    The table has the columns text, label and optionally group, split and id. Without the column group, equal sentences
    form a group. Raises UserError.
    """
    where = locate(name)
    if where.is_dir():
        raise UserError(f"{where}: no table; sentences need a table (.csv, .tsv, .jsonl) with the columns text,label")
    listing = _read_listing(where, "text", lambda row: row.get("id", "").strip())
    return _require_classes(
        replace(listing, group_ids=listing.group_ids or [normal_form(text) for text in listing.items])
    )


def normal_form(text: str) -> str:
    """The sentence in lower case without extra white space, to compare sentences."""
    return " ".join(text.casefold().split())


# Tables


def _read_listing(table: Path, content: str, id_of: Callable[[dict[str, str]], str]) -> Listing[str]:
    """The examples of a table.

    `content` is the column of their paths or sentences; `id_of` returns the id of a row, or "".
    """
    rows = read_table(table, (content, "label"))
    ids = [id_of(row) or str(number) for number, row in enumerate(rows, start=1)]
    first: dict[str, int] = {}
    repeated = [
        f"rows {first[identity]} and {number} ({identity})"
        for number, identity in enumerate(ids, start=1)
        if first.setdefault(identity, number) != number
    ]
    if repeated:
        column = "path" if content == "path" else "id"
        raise UserError(f"{table}: {counted(repeated, f'repeated {column}')}: {first_few(repeated)}; keep one of each")
    group_ids = None
    if "group" in rows[0]:
        group_ids = [row["group"].strip() or f"row {number}" for number, row in enumerate(rows, start=1)]
    return Listing(
        table,
        [row[content] for row in rows],
        ids,
        [normal_label(row["label"]) for row in rows],
        group_ids,
        _read_splits(table, [row["split"].strip() for row in rows]) if "split" in rows[0] else None,
    )


def _read_splits(table: Path, names: list[str]) -> list[str] | None:
    """The split of each row; None if all are empty.

    Raises UserError if a name is unknown, or if train or test is missing.
    """
    if not any(names):
        return None
    if unknown := [
        f"row {number} ('{name}')" for number, name in enumerate(names, 1) if name.lower() not in SPLIT_NAMES
    ]:
        raise UserError(f"{table}: unknown split in {first_few(unknown)}; use train, val or test")
    splits = [SPLIT_NAMES[name.lower()] for name in names]
    if missing := {"train", "test"} - set(splits):
        raise UserError(
            f"{table}: no row has the split '{missing.pop()}'; add rows for it (only val is optional), or remove the "
            "column to split at random"
        )
    return splits


def _require_classes(listing: Listing[Item]) -> Listing[Item]:
    names = list(listing.class_names)
    if len(names) == 1:
        hint = ""
        if listing.where.is_dir() and len(folders := entries(listing.where / names[0])[0]) > 1:
            hint = f"; if the {len(folders)} folders in it are the classes, pass {listing.where / names[0]}"
        raise UserError(f"{listing.where}: only one class, '{names[0]}'; at least two are needed{hint}")
    return listing
