"""Someone's own data, before anything is decoded: which rows there are in a folder or a table, of which classes."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from rgjax.console import local_path
from rgjax.data.dataset import Source
from rgjax.data.decode import SUFFIXES
from rgjax.data.tables import is_table, read_table
from rgjax.errors import UserError, first_few

Item = TypeVar("Item", Path, str)

_PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# What programs leave behind, hidden from their users.
LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", ".git", ".ipynb_checkpoints", ".cache", ".thumbnails"}


@dataclass(frozen=True)
class Listing(Generic[Item]):
    """The rows of a folder or table `where`: image files or sentences, an id, a class and a group each, and the part
    ("train", "val", "test") that the user gave them to, or None where he did not. `notes` tell what was left out."""

    where: Path
    items: list[Item]
    ids: list[str]
    labels: list[str]
    groups: list[str] | None
    parts: list[str] | None
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    def source(self, inputs: np.ndarray, fingerprint: str) -> Source:
        """The rows with their content."""
        groups = self.ids if self.groups is None else self.groups
        parts = None if self.parts is None else np.array(self.parts)
        return Source(
            inputs=inputs,
            labels=_numbered(self.labels, self.class_names),
            class_names=self.class_names,
            groups=_numbered(groups, dict.fromkeys(groups)),
            ids=np.array(self.ids),
            official_test=None if parts is None else parts == "test",
            official_val=None if parts is None or "val" not in parts else parts == "val",
            fingerprint=fingerprint,
            notes=self.notes,
        )

    def only(self, kept: np.ndarray, *notes: str) -> "Listing[Item]":
        """The rows where `kept` [N] is true, with `notes` on the others."""

        def those(values):
            return [value for value, keep in zip(values, kept, strict=True) if keep]

        return Listing(
            self.where,
            those(self.items),
            those(self.ids),
            those(self.labels),
            None if self.groups is None else those(self.groups),
            None if self.parts is None else those(self.parts),
            (*self.notes, *notes),
        )


def place(name: str) -> Path:
    """The folder or table that a user means: a folder that holds one table, and no class folders, stands for that.

    Raises UserError where it is not there, or not clear.
    """
    if not name:
        raise UserError(
            "--config.data.manual_dir=PLACE is missing: a folder with a subfolder for each class, or a table (.csv, "
            ".tsv, .jsonl) with the columns path,label or text,label"
        )
    path = local_path(name)
    if path.is_file() and is_table(path):
        return path
    if path.is_file():
        raise UserError(f"{path} is neither a folder nor a table (.csv, .tsv, .jsonl)")
    if not path.is_dir():
        raise UserError(f"there is no folder or table {path}")
    folders, files = _entries(path)
    folders, tables = _visible(folders), [Path(file) for file in files if is_table(Path(file))]
    if not tables:
        return path
    if len(tables) == 1 and len(folders) < 2:
        return tables[0]
    beside = "" if len(folders) < 2 else f" beside {len(folders)} folders"
    raise UserError(
        f"{path} holds {first_few(table.name for table in tables)}{beside}: give the table that is meant, such as "
        f"{tables[0]}, or move tables away if the folders are the classes"
    )


def list_images(name: str) -> Listing[Path]:
    """The images of a folder (CLASS/**, or train/CLASS/**, test/CLASS/** and perhaps val/CLASS/**) or of a table with
    the columns path (from the table's folder), label and perhaps group and split.

    Hidden files and folders below the classes are passed over, links are followed once. Raises UserError.
    """
    where = place(name)
    if where.is_dir():
        return _checked(_images_of_folder(where))
    listing = _of_table(where, "path", lambda row: os.path.normpath(row["path"].strip()))
    paths = [where.parent / identity for identity in listing.ids]
    if missing := [path for path in paths if not os.path.isfile(path)]:  # also of a name that is too long
        raise UserError(
            f"{len(missing)} of {len(paths)} images of {where} are not there: {first_few(missing)}; paths are taken "
            "from the table's folder"
        )
    return _checked(Listing(where, paths, listing.ids, listing.labels, listing.groups, listing.parts))


def list_sentences(name: str) -> Listing[str]:
    """The sentences of a table with the columns text, label and perhaps group, split and id. Where there are no
    groups, equal sentences are one. Raises UserError."""
    where = place(name)
    if where.is_dir():
        raise UserError(f"{where} holds no table: sentences are read from one (.csv, .tsv, .jsonl) with text,label")
    listing = _of_table(where, "text", lambda row: row.get("id", "").strip())
    groups = listing.groups or [normal_form(text) for text in listing.items]
    return _checked(Listing(where, listing.items, listing.ids, listing.labels, groups, listing.parts))


def normal_form(text: str) -> str:
    """What makes two sentences the same: their letters, whatever the case and the spaces."""
    return " ".join(text.casefold().split())


def _images_of_folder(root: Path) -> Listing[Path]:
    folders, strays = _entries(root)
    parts = {folder: _PARTS.get(os.path.basename(folder).lower()) for folder in _visible(folders)}
    official = _is_official(root, parts)
    found: list[tuple[str, str, str]] = []  # id, class, part
    empty, foreign = set(), []
    for folder, part in parts.items() if official else [(str(root), None)]:
        classes, beside = _entries(Path(folder))
        strays += beside if official else []
        for one in classes:
            label = _class_name(one)
            images, others = _images_below(one, root)
            if not images and _visible([one]):
                empty.add(label)
            found += [(os.path.relpath(image, root), label, part or "") for image in images]
            foreign += others
    found.sort()
    filled = {part for _, _, part in found}
    bare = [folder for folder, part in parts.items() if official and part not in filled]
    if bare or not found:
        where = bare[0] if found else root
        raise UserError(f"{where} has no class folders with images: put the images of each class into one of its own")
    if empty := empty - {label for _, label, _ in found}:
        raise UserError(
            f"{root}: {_count(empty, 'class folder')} without images: {first_few(sorted(empty))}; put some in or "
            "remove the folder"
        )
    notes = [(strays, "directly in the folder, so of no class"), (foreign, "in class folders, but no images by name")]
    return Listing(
        root,
        [root / identity for identity, _, _ in found],
        [Path(identity).as_posix() for identity, _, _ in found],
        [label for _, label, _ in found],
        None,
        [part for _, _, part in found] if official else None,
        tuple(
            f"{_count(files, 'file')} left out, {what}: {first_few(os.path.relpath(f, root) for f in files)}"
            for files, what in notes
            if files
        ),
    )


def _is_official(root: Path, parts: dict[str, str | None]) -> bool:
    """Whether the folders are the parts of a split. Raises UserError where only some of them seem to be."""
    known = {part for part in parts.values() if part}
    if known == {"train", "val"} and all(parts.values()):
        raise UserError(
            f"{root} has a folder for training and one for validation, but none for the test: call the latter 'test' "
            "(a share of the former then validates), or add one"
        )
    if not known >= {"train", "test"}:
        return False
    if others := [os.path.basename(folder) for folder, part in parts.items() if not part]:
        raise UserError(
            f"{root} has other folders beside those for training and test: {first_few(others)}; move them away, or "
            "into the parts"
        )
    return True


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder, sorted, without what programs leave behind, and without hidden files; a
    hidden folder may be a class."""
    with os.scandir(folder) as entries:
        found = sorted((entry.path, _is_folder(entry)) for entry in entries if entry.name.lower() not in LITTER)
    folders = [path for path, is_folder in found if is_folder]
    return folders, _visible([path for path, is_folder in found if not is_folder])


def _visible(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.basename(path).startswith(".")]


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _images_below(folder: str, root: Path) -> tuple[list[str], list[str]]:
    """Images and other files at any depth. Each folder is read once, whatever links lead to it, and none that `root`
    itself lies in."""
    images, others, seen, waiting = [], [], set(), [folder]
    above = os.path.realpath(root)
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen or os.path.commonpath([real, above]) == real:
            continue
        seen.add(real)
        folders, files = _entries(Path(folder))
        waiting += _visible(folders)
        for path in files:
            known = os.path.splitext(path)[1].lower() in SUFFIXES
            special = not os.path.isfile(path) and os.path.exists(path)  # a pipe would never end
            (images if known and not special else others).append(path)
    return images, others


def _class_name(folder: str) -> str:
    name = os.path.basename(folder)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name of the class folder {folder!r} is not UTF-8: rename it") from error
    return _normal_label(name)


def _normal_label(name: str) -> str:
    """One name for one class, in whichever of Unicode's forms a file system or an editor has written it."""
    return unicodedata.normalize("NFC", name.strip())


def _of_table(table: Path, content: str, identity) -> Listing[str]:
    rows = read_table(table, (content, "label"))
    ids = [identity(row) or str(number) for number, row in enumerate(rows, start=1)]
    first: dict[str, int] = {}
    repeated = [
        f"rows {first[one]} and {number} ({one})"
        for number, one in enumerate(ids, start=1)
        if first.setdefault(one, number) != number
    ]
    if repeated:
        what = "path" if content == "path" else "id"
        raise UserError(f"{table}: {_count(repeated, f'{what}')} repeated: {first_few(repeated)}; remove one of each")
    groups = None
    if "group" in rows[0]:
        groups = [row["group"].strip() or f"row {number}" for number, row in enumerate(rows, start=1)]
    return Listing(
        table,
        [row[content] for row in rows],
        ids,
        [_normal_label(row["label"]) for row in rows],
        groups,
        _parts(table, [row["split"].strip() for row in rows]) if "split" in rows[0] else None,
    )


def _parts(table: Path, named: list[str]) -> list[str] | None:
    """The part of each row. Raises UserError where one is not known, or where there is no training or test set."""
    if not any(named):
        return None
    if unknown := [f"row {number} ('{name}')" for number, name in enumerate(named, 1) if name.lower() not in _PARTS]:
        raise UserError(f"{table}: the split of {first_few(unknown)} is none of train, val and test")
    parts = [_PARTS[name.lower()] for name in named]
    if missing := {"train", "test"} - set(parts):
        raise UserError(
            f"{table}: no row's split is '{missing.pop()}'; train and test are needed, val is not; without the column "
            "rows are dealt out"
        )
    return parts


def _checked(listing: Listing[Item]) -> Listing[Item]:
    names = list(listing.class_names)
    if len(names) == 1:
        deeper = ""
        if listing.where.is_dir() and len(folders := _entries(listing.where / names[0])[0]) > 1:
            deeper = f"; if {_count(folders, 'folder')} in it are the classes, give {listing.where / names[0]}"
        raise UserError(f"{listing.where} has one class only, '{names[0]}': two or more are needed{deeper}")
    return listing


def _numbered(values: Sequence[str], known: Iterable[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(known)}
    return np.array([numbers[value] for value in values], np.int32)


def _count(things: Iterable, what: str) -> str:
    number = len(list(things))
    return f"{number} {what}{'' if number == 1 else 's'}"
