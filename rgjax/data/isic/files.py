"""Find tables and photographs in the folder of a HAM10000 or ISIC download.

They lie at any depth. The masks of lesions that come with these data sets are named like the photographs.
"""

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rgjax.data.folders import files_below
from rgjax.data.isic.tables import columns_of
from rgjax.data.listing import counted
from rgjax.data.notes import Note, note
from rgjax.data.pictures.decode import SUFFIXES, Unreadable, decode
from rgjax.errors import UserError, first_few

_TABLES = ("", ".csv", ".tab", ".tsv", ".txt")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
_JPEG = (".jpg", ".jpeg")  # all photographs of the downloads
_MASK_NAME = re.compile(r"_(segmentation|superpixels|mask|attribute_\w+)$", re.IGNORECASE)
_MASK_FOLDER = re.compile(r"mask|segment|superpixel|annotation|attribute|ground.?truth", re.IGNORECASE)
_MASK_SIDE = 128  # pixels a side at which a picture is tested for being a mask
_DOWNSAMPLED = "_downsampled"  # ends the names of some images of the challenge of 2019


@dataclass(frozen=True)
class Files:
    """The files of a download.

    Attributes:
        folder: where they lie.
        images: pictures by the name of their image.
        masks: pictures that are called masks.
        tables: files that may be tables, with their columns.
        archives: archives that are not unpacked.
    """

    folder: Path
    images: dict[str, list[Path]]
    masks: list[Path]
    tables: dict[Path, tuple[str, ...]]
    archives: list[Path]

    def __str__(self) -> str:
        """What is there, in a part of a line."""
        images = [path for paths in self.images.values() for path in paths]
        parts = [
            f"{counted(paths, noun)} ({first_few(map(self.name, paths), limit=2)})"
            for noun, paths in (("image", images), ("mask", self.masks), ("packed archive", self.archives))
            if paths
        ]
        tables = {table: names for table, names in self.tables.items() if len(names) > 1 and table.suffix != ".txt"}
        parts += [f"{self.name(table)} (columns {first_few(names)})" for table, names in tables.items()][:5]
        return ", ".join(parts) or "nothing that can be used"

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def files_of(folder: Path) -> Files:
    """The pictures, tables and archives in a folder at any depth.

    Raises UserError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}") from error

    files = Files(folder, defaultdict(list), [], {}, [])
    for path in sorted(files_below(folder, refuse)):
        suffix = path.suffix.lower()
        if not path.is_file():  # reading a pipe would never end
            continue
        if suffix in SUFFIXES:
            files.masks.append(path) if _MASK_NAME.search(path.stem) else files.images[path.stem].append(path)
        elif suffix in _ARCHIVES:
            files.archives.append(path)
        elif suffix in _TABLES:
            files.tables[path] = columns_of(path)
    return files


def photographs(
    identities: Iterable[str], files: Files, left_out: Iterable[str] = ()
) -> tuple[dict[str, Path], tuple[Note, ...]]:
    """The photograph of each image that has one, and notes on the other pictures.

    Args:
        identities: the ids of the images.
        files: the files of the download.
        left_out: ids of images that have a note already.

    Raises:
        UserError: an image has two photographs that differ.
    """
    identities, by_key = list(identities), defaultdict(list)
    for name in set(files.images).difference(identities):
        by_key[_key(name)] += files.images[name]

    def paths_of(identity: str) -> list[Path]:
        return files.images.get(identity) or by_key[_key(identity)]

    chosen, masks, copies, ambiguous = {}, list(files.masks), [], []
    used = {path for identity in left_out for path in paths_of(identity)}
    for identity in identities:
        paths = paths_of(identity)
        used.update(paths)
        distinct = _distinct(paths)
        copies += [path for path in set(paths).difference(distinct) if not any(map(path.samefile, distinct))]
        candidates = _without_masks(distinct)
        masks += [path for path in distinct if path not in candidates]
        if len(candidates) > 1:
            ambiguous.append(" and ".join(map(str, candidates)))
        elif candidates:
            chosen[identity] = candidates[0]
    if ambiguous:
        raise UserError(
            f"HAM10000: {counted(ambiguous, 'image')} with two different files: {first_few(ambiguous, limit=2)}; "
            "keep the photograph in the folder and move the other file elsewhere"
        )
    rest = [path for paths in files.images.values() for path in paths if path not in used]
    masks += [path for path in rest if _MASK_FOLDER.search(path.parent.name)]
    rest = [path for path in rest if not _MASK_FOLDER.search(path.parent.name)]
    return chosen, (
        *note("mask", map(files.name, masks)),
        *note("equal_file", map(files.name, copies)),
        *note("unlisted_image", map(files.name, rest)),
    )


def _key(name: str) -> str:
    """The name of an image in lower case, without what some tables and files add."""
    stem, suffix = os.path.splitext(name.lower())
    return (stem if suffix in SUFFIXES else name.lower()).removesuffix(_DOWNSAMPLED)


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """One path for each content.

    The last one, as in earlier versions, so that their caches stay valid.
    """
    distinct: list[Path] = []
    for path in reversed(paths):
        if not any(path.samefile(kept) or filecmp.cmp(path, kept, shallow=False) for kept in distinct):
            distinct.append(path)
    return distinct[::-1]


def _without_masks(paths: Collection[Path]) -> list[Path]:
    """The pictures that are no masks by their folders and by their looks."""
    named = [path for path in paths if _MASK_FOLDER.search(path.parent.name)]
    if len(named) < len(paths):
        paths = [path for path in paths if path not in named]
    if len(paths) > 1 or any(path in named or path.suffix.lower() not in _JPEG for path in paths):
        paths = [path for path in paths if not _is_mask(path)]
    return list(paths)


def _is_mask(path: Path) -> bool:
    """Whether a picture is black and white: few of its pixels have other colors."""
    try:
        pixels = decode(path, _MASK_SIDE)
    except Unreadable:
        return False
    is_extreme = (pixels < 16).all(axis=-1) | (pixels > 239).all(axis=-1)
    return bool(np.mean(is_extreme) > 0.9)
