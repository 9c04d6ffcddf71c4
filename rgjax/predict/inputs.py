"""What a user gives to be predicted: files, folders, tables and lines, as one row after the other."""

import codecs
import io
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from rgjax.console import local_path
from rgjax.data.custom import LITTER
from rgjax.data.decode import SUFFIXES, Unreadable, decode
from rgjax.data.tables import DELIMITERS, is_table, read_table
from rgjax.errors import UserError

STDIN = "-"
_AHEAD = 64  # images that threads may have read before they are asked for


class Row(NamedTuple):
    """An image uint8 [S, S, 3] or a sentence under its id; or, in a line, the `fault` that makes it unreadable."""

    id: str
    content: np.ndarray | str
    fault: str = ""


def images(names: Sequence[str], size: int) -> Iterator[Row]:
    """The images of files, of folders at any depth, and of the paths that come line by line where the name is "-".

    In a folder, files without the suffix of an image are passed over, and so are hidden ones. Decoded in threads.
    """
    rows = (row for name in names for row in _named(name, lambda path: path.suffix.lower() in SUFFIXES, "images"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(rows, _AHEAD)):
            yield from pool.map(partial(_decoded, size=size), some)


def sentences(names: Sequence[str], texts: Sequence[str] = ()) -> Iterator[Row]:
    """The `texts`, and the sentences of text files, a line each, of tables with the column "text", of folders of such
    files, and of standard input where the name is "-".

    An id is the number of a line, or what a table has in its column "id", else the number of the row; behind the file's
    name, unless that is the only one. Blank lines are passed over.
    """
    alone = len(names) + bool(texts) == 1 and not any(local_path(name).is_dir() for name in names)
    for number, text in enumerate(texts, start=1):
        yield _sentence(str(number) if alone else f"--text:{number}", text)
    for name in names:
        files = [Row(name, name)] if name == STDIN else _named(name, _holds_text, "text files or tables")
        for file in files:
            yield from [file] if file.fault else _sentences_of(file.id, "" if alone else f"{file.id}:")


def _named(name: str, wanted, what: str) -> Iterator[Row]:
    """The files that a name stands for, as their paths."""
    if name == STDIN:
        for line in _lines(sys.stdin.buffer):
            if line.strip():
                yield Row(line, line)
    elif not local_path(name).is_dir():
        yield Row(name, str(local_path(name)))
    else:
        found = False
        for path in _below(local_path(name)):
            if wanted(path):
                found = True
                yield Row(str(path), str(path))
        if not found:
            yield _fault(name, f"there are no {what} in this folder")


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder at any depth, in order, without hidden ones. Links are followed, each folder read once."""
    seen = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(filter(_is_meant, folders))
        if real not in seen:
            yield from (Path(where, name) for name in sorted(filter(_is_meant, files)))
        seen.add(real)


def _is_meant(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LITTER


def _decoded(row: Row, size: int) -> Row:
    if row.fault:
        return row
    path = Path(str(row.content))
    if path.exists() and not path.is_file():  # a pipe would never end
        return _fault(row.id, "this is no file")
    try:
        return Row(row.id, decode(path, size))
    except Unreadable as error:
        return _fault(row.id, str(error))


def _sentences_of(name: str, prefix: str) -> Iterator[Row]:
    found = False
    try:
        for number, text, own in _numbered(name):
            found = True
            yield _sentence(f"{prefix}{own or number}", text)
        if not found:
            yield _fault(name, "there are no sentences in it")
    except UserError as error:
        yield Row(name, "", str(error))
    except (OSError, UnicodeError) as error:
        yield _fault(name, error.strerror if isinstance(error, OSError) and error.strerror else str(error))


def _numbered(name: str) -> Iterator[tuple[int, str, str]]:
    """Number, text and own id, if any, of the sentences in a file."""
    if is_table(path := local_path(name)):
        for number, row in enumerate(read_table(path, ["text"]), start=1):
            yield number, row["text"], row.get("id", "").strip()
        return
    if name != STDIN and not _holds_text(path):
        raise UserError(f"{name}: sentences are read from .txt, {', '.join(DELIMITERS)} files")
    with sys.stdin.buffer if name == STDIN else open(path, "rb") as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if line.strip():
                yield number, line, ""


def _holds_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt" or is_table(path)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Lines in UTF-8, or in UTF-16 with its mark; bytes that are not UTF-8 become lone surrogates."""
    stream = io.BufferedReader(stream) if not isinstance(stream, io.BufferedReader) else stream  # type: ignore
    wide = stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    for line in io.TextIOWrapper(stream, "utf-16" if wide else "utf-8-sig", errors="surrogateescape"):
        yield line.rstrip("\n")


def _sentence(identity: str, text: str) -> Row:
    if not text.strip():
        return _fault(identity, "the sentence is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        return _fault(identity, "this is not text in UTF-8")
    return _fault(identity, "there is a NUL in it") if "\0" in text else Row(identity, text)


def _fault(identity: str, reason: str) -> Row:
    return Row(identity, "", f"{identity}: {reason}")
