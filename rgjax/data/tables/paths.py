"""Find files whose paths a table spells otherwise than the file system does."""

import os
import re
import unicodedata
from collections import defaultdict
from functools import cache
from itertools import islice
from pathlib import Path

from rgjax.data.folders import files_below
from rgjax.data.pictures.decode import SUFFIXES
from rgjax.errors import UserError, first_few

_MOST_FILES = 1_000_000  # that are searched for a name without its folder


def find_file(folder: str, name: str) -> str | None:
    r"""The path of a file relative to the folder; None if there is none.

    It is absolute if `name` is. The exact name goes first. Else the file may differ in separators (`images\0.png`), in
    the Unicode normal form, and in upper and lower case. A name without folders also stands for an image in a folder
    below, with any suffix. Raises UserError if several files differ from the name so.
    """
    exact = os.path.normpath(name)
    if os.path.isfile(os.path.join(folder, exact)):
        return exact
    parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]
    start = os.sep if name.startswith("/") else ""
    spelled = start + "/".join(parts)
    candidates = [start]
    for part in parts:
        below = [os.path.join(path, entry) for path in candidates for entry in _near(os.path.join(folder, path), part)]
        candidates = below
    files = [os.path.normpath(path) for path in candidates if os.path.isfile(os.path.join(folder, path))]
    for same in (str, _composed, _folded):
        nearest = [file for file in files if same(file) == same(os.path.normpath(spelled))]
        if len(nearest) > 1:
            raise UserError(f"'{name}' may be {first_few(nearest)}; write the path as it is")
        if nearest:
            return nearest[0]
    below = _images_below(folder).get(_folded(parts[0]), []) if len(parts) == 1 and not start else []
    if len(below) > 1:
        raise UserError(f"'{name}' may be {first_few(below)}; write the path with its folder and suffix")
    return below[0] if below else None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(unicodedata.normalize("NFD", name).casefold())


def _near(folder: str, part: str) -> list[str]:
    return [part] if part == ".." else _entries(folder).get(_folded(part), [])


@cache
def _entries(folder: str) -> dict[str, list[str]]:
    """The names in a folder by their folded form."""
    entries = defaultdict(list)
    try:
        for name in sorted(os.listdir(folder)):
            entries[_folded(name)].append(name)
    except OSError:  # no folder, or not to be read
        pass
    return entries


@cache
def _images_below(folder: str) -> dict[str, list[str]]:
    """The images below a folder by folded name, with and without suffix."""
    paths = defaultdict(list)
    for path in islice(files_below(Path(folder)), _MOST_FILES):
        if path.suffix.lower() in SUFFIXES:
            for name in (path.name, path.stem):
                paths[_folded(name)].append(os.path.relpath(path, folder))
    return paths
