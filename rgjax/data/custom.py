"""List the examples in a custom folder or table, before anything is decoded."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from rgjax.console import local_path
from rgjax.data.dataset import Source
from rgjax.data.decode import SUFFIXES
from rgjax.data.tables import is_table, read_table
from rgjax.errors import UserError, first_few

Item = TypeVar("Item", Path, str)

_SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Files and folders that programs create and hide from their users.
LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", ".git", ".ipynb_checkpoints", ".cache", ".thumbnails"}


@dataclass(frozen=True)
class Listing(Generic[Item]):
    """The examples in a folder or table, without their content.

    Attributes:
        where: the folder or table.
        items: image files or sentences.
        ids: a unique name for each example.
        labels: the class name of each example.
        group_ids: a group for each example, or None.
        splits: "train", "val" or "test" for each example, or None if the user defined no split.
        notes: one line for each kind of skipped file.
    """

    where: Path
    items: list[Item]
    ids: list[str]
    labels: list[str]
    group_ids: list[str] | None
    splits: list[str] | None
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    def source(self, inputs: np.ndarray, fingerprint: str) -> Source:
        """The examples with their content `inputs` [N, ...]."""
        group_ids = self.ids if self.group_ids is None else self.group_ids
        splits = None if self.splits is None else np.array(self.splits)
        return Source(
            inputs=inputs,
            labels=_to_indices(self.labels, self.class_names),
            class_names=self.class_names,
            group_ids=_to_indices(group_ids, dict.fromkeys(group_ids)),
            ids=np.array(self.ids),
            official_test=None if splits is None else splits == "test",
            official_val=None if splits is None or "val" not in splits else splits == "val",
            fingerprint=fingerprint,
            notes=self.notes,
        )

    def select(self, mask: np.ndarray, *notes: str) -> "Listing[Item]":
        """The examples where `mask` [N] is true; `notes` describe the rest."""

        def selected(values: list) -> list:
            return [value for value, keep in zip(values, mask, strict=True) if keep]

        return replace(
            self,
            items=selected(self.items),
            ids=selected(self.ids),
            labels=selected(self.labels),
            group_ids=self.group_ids and selected(self.group_ids),
            splits=self.splits and selected(self.splits),
            notes=(*self.notes, *notes),
        )


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
    if path.is_file() and is_table(path):
        return path
    if path.is_file():
        raise UserError(f"{path}: neither a folder nor a table (.csv, .tsv, .jsonl)")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or table")
    folders, files = _entries(path)
    folders, tables = _visible(folders), [Path(file) for file in files if is_table(Path(file))]
    if not tables:
        return path
    if len(tables) == 1 and len(folders) < 2:
        return tables[0]
    beside = "" if len(folders) < 2 else f" beside {len(folders)} folders"
    raise UserError(
        f"{path}: holds {first_few(table.name for table in tables)}{beside}; pass a table, e.g. {tables[0]}, or, if "
        "the folders are classes, move the tables elsewhere"
    )


def list_images(name: str) -> Listing[Path]:
    """List the images of a folder or table.

    A folder holds CLASS/**, or train/CLASS/**, test/CLASS/** and optionally val/CLASS/**. A table has the columns path
    (relative to the table's folder), label and optionally group and split. Hidden files and folders below the class
    folders are ignored. Links are followed, but each folder is read once. Raises UserError.
    """
    where = locate(name)
    if where.is_dir():
        return _require_classes(_images_of_folder(where))
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


# Folders of images


def _images_of_folder(root: Path) -> Listing[Path]:
    folders, stray_files = _entries(root)
    splits = {folder: _SPLIT_NAMES.get(os.path.basename(folder).lower()) for folder in _visible(folders)}
    official = _has_split_folders(root, splits)

    examples: list[tuple[str, str, str]] = []  # id, class, split
    empty, other_files = set(), []
    for folder, split in splits.items() if official else [(str(root), None)]:
        class_folders, files = _entries(Path(folder))
        stray_files += files if official else []
        for class_folder in class_folders:
            label = _class_name(class_folder)
            images, non_images = _images_below(class_folder, root)
            if not images and _visible([class_folder]):
                empty.add(label)
            examples += [(os.path.relpath(image, root), label, split or "") for image in images]
            other_files += non_images
    examples.sort()

    with_images = {split for _, _, split in examples}
    without = [folder for folder, split in splits.items() if official and split not in with_images]
    if without or not examples:
        where = without[0] if examples else root
        raise UserError(f"{where}: no class folders with images; make one folder per class and put its images there")
    if empty := empty - {label for _, label, _ in examples}:
        raise UserError(
            f"{root}: {_count(empty, 'class folder')} without images: {first_few(sorted(empty))}; add images or remove "
            "the folder"
        )
    skipped = [(stray_files, "not in a class folder"), (other_files, "in class folders, without an image suffix")]
    return Listing(
        root,
        [root / identity for identity, _, _ in examples],
        [Path(identity).as_posix() for identity, _, _ in examples],
        [label for _, label, _ in examples],
        None,
        [split for _, _, split in examples] if official else None,
        tuple(
            f"{_count(files, 'file')} skipped, {why}: {first_few(os.path.relpath(file, root) for file in files)}"
            for files, why in skipped
            if files
        ),
    )


def _has_split_folders(root: Path, splits: dict[str, str | None]) -> bool:
    """Whether the folders are splits. Raises UserError if only some of them are."""
    known = {split for split in splits.values() if split}
    if known == {"train", "val"} and all(splits.values()):
        raise UserError(
            f"{root}: folders for training and validation, but none for testing; add one, or rename the validation "
            "folder to 'test' (validation examples are then drawn from the training set)"
        )
    if not known >= {"train", "test"}:
        return False
    if unknown := [os.path.basename(folder) for folder, split in splits.items() if not split]:
        raise UserError(
            f"{root}: train and test folders, but also others: {first_few(unknown)}; move these elsewhere, or into the "
            "train and test folders"
        )
    return True


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder, sorted, without litter and hidden files.

    Hidden folders are kept: one may be a class, such as .net.
    """
    with os.scandir(folder) as entries:
        paths = sorted((entry.path, _is_folder(entry)) for entry in entries if entry.name.lower() not in LITTER)
    folders = [path for path, is_folder in paths if is_folder]
    return folders, _visible([path for path, is_folder in paths if not is_folder])


def _visible(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.basename(path).startswith(".")]


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _images_below(folder: str, root: Path) -> tuple[list[str], list[str]]:
    """Images and other files at any depth.

    Links are followed, but each folder is read once, and links to `root` or its parents are skipped.
    """
    images, non_images, seen, queue = [], [], set(), [folder]
    real_root = os.path.realpath(root)
    while queue:
        folder = queue.pop()
        real = os.path.realpath(folder)
        if real in seen or os.path.commonpath([real, real_root]) == real:
            continue
        seen.add(real)
        folders, files = _entries(Path(folder))
        queue += _visible(folders)
        for path in files:
            has_suffix = os.path.splitext(path)[1].lower() in SUFFIXES
            special = not os.path.isfile(path) and os.path.exists(path)  # reading a pipe would never end
            (images if has_suffix and not special else non_images).append(path)
    return images, non_images


def _class_name(folder: str) -> str:
    name = os.path.basename(folder)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"class folder {folder!r}: its name is not UTF-8; rename it") from error
    return _normal_label(name)


def _normal_label(name: str) -> str:
    """The class name in Unicode's NFC form, because file systems and editors differ."""
    return unicodedata.normalize("NFC", name.strip())


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
        raise UserError(f"{table}: {_count(repeated, f'repeated {column}')}: {first_few(repeated)}; keep one of each")
    group_ids = None
    if "group" in rows[0]:
        group_ids = [row["group"].strip() or f"row {number}" for number, row in enumerate(rows, start=1)]
    return Listing(
        table,
        [row[content] for row in rows],
        ids,
        [_normal_label(row["label"]) for row in rows],
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
        f"row {number} ('{name}')" for number, name in enumerate(names, 1) if name.lower() not in _SPLIT_NAMES
    ]:
        raise UserError(f"{table}: unknown split in {first_few(unknown)}; use train, val or test")
    splits = [_SPLIT_NAMES[name.lower()] for name in names]
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
        if listing.where.is_dir() and len(folders := _entries(listing.where / names[0])[0]) > 1:
            hint = f"; if the {len(folders)} folders in it are the classes, pass {listing.where / names[0]}"
        raise UserError(f"{listing.where}: only one class, '{names[0]}'; at least two are needed{hint}")
    return listing


def _to_indices(values: Sequence[str], names: Iterable[str]) -> np.ndarray:
    """The position int32 [N] of each value among the names."""
    index_of = {name: index for index, name in enumerate(names)}
    return np.array([index_of[value] for value in values], np.int32)


def _count(things: Iterable, noun: str) -> str:
    number = len(list(things))
    return f"{number} {noun}{'' if number == 1 else 's'}"
