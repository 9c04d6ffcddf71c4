"""Read the inputs of a prediction from files, folders, tables or standard input."""

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from rgjax.console import local_path
from rgjax.data.decode import Unreadable, decode_with_remarks
from rgjax.data.folders import files_below, is_image_file
from rgjax.data.tables import DELIMITERS, is_table, read_table
from rgjax.errors import UserError

STDIN = "-"
_READ_AHEAD = 64  # images that threads decode at a time


class InputRow(NamedTuple):
    """One input: an image or a sentence, or the reason why it cannot be read.

    Attributes:
        id: its name in the output.
        content: an image uint8 [S, S, 3] or a sentence; a path while it is unread.
        fault: one line that says why it cannot be read, or "".
        remarks: what a user may not expect of an image: keys of `rgjax.data.notes.KINDS`.
    """

    id: str
    content: np.ndarray | str
    fault: str = ""
    remarks: tuple[str, ...] = ()


def images(names: Sequence[str], size: int) -> Iterator[InputRow]:
    """Read images from files, folders and standard input; threads decode them.

    Args:
        names: files, folders, or "-" for paths on standard input, one per line. In folders, at any depth, files
            without the suffix of an image and hidden files are skipped.
        size: the side in pixels to which images are resized.
    """
    rows = (row for name in names for row in _paths(name, lambda path: is_image_file(str(path)), "images"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(rows, _READ_AHEAD)):
            yield from pool.map(partial(_decoded, size=size), chunk)


def sentences(names: Sequence[str], texts: Sequence[str] = ()) -> Iterator[InputRow]:
    """Read sentences from text files, tables and standard input.

    A text file has one sentence per line, and blank lines are skipped; a table has a column "text". An id is the line
    number, or the table's id if it has that column, else the row number; the name of the file precedes it unless there
    is only one.

    Args:
        names: files, folders, or "-" for standard input.
        texts: sentences themselves.
    """
    only_source = len(names) + bool(texts) == 1 and not any(local_path(name).is_dir() for name in names)
    for number, text in enumerate(texts, start=1):
        yield _sentence(str(number) if only_source else f"--text:{number}", text)
    for name in names:
        files = [InputRow(name, name)] if name == STDIN else _paths(name, _holds_text, "text files or tables")
        for file in files:
            yield from [file] if file.fault else _read_sentences(file.id, "" if only_source else f"{file.id}:")


def _paths(name: str, is_input: Callable[[Path], bool], noun: str) -> Iterator[InputRow]:
    """Resolve a name to paths: a file, a folder's files, or standard input's lines."""
    if name == STDIN:
        for line in _lines(sys.stdin.buffer):
            if line.strip():
                yield InputRow(line, line)
    elif not local_path(name).is_dir():
        yield InputRow(name, str(local_path(name)))
    else:
        empty = True
        for path in filter(is_input, files_below(local_path(name))):
            empty = False
            yield InputRow(str(path), str(path))
        if empty:
            yield _fault(name, f"there are no {noun} in this folder")


def _decoded(row: InputRow, size: int) -> InputRow:
    if row.fault:
        return row
    path = Path(str(row.content))
    if path.exists() and not path.is_file():  # reading a pipe would block
        return _fault(row.id, "not a file")
    try:
        pixels, remarks = decode_with_remarks(path, size)
        return InputRow(row.id, pixels, remarks=remarks)
    except Unreadable as error:
        return _fault(row.id, str(error))


def _read_sentences(name: str, prefix: str) -> Iterator[InputRow]:
    empty = True
    try:
        for number, text, identity in _numbered(name):
            empty = False
            yield _sentence(f"{prefix}{identity or number}", text)
        if empty:
            yield _fault(name, "it holds no sentences")
    except UserError as error:
        yield InputRow(name, "", str(error))
    except (OSError, UnicodeError) as error:
        yield _fault(name, error.strerror if isinstance(error, OSError) and error.strerror else str(error))


def _numbered(name: str) -> Iterator[tuple[int, str, str]]:
    """Number, text and id (or "") of the sentences in a file."""
    if is_table(path := local_path(name)):
        for number, row in enumerate(read_table(path, ["text"]), start=1):
            yield number, row["text"], row.get("id", "").strip()
        return
    if name != STDIN and not _holds_text(path):
        raise UserError(f"{name}: not a file of sentences; give .txt, {', '.join(DELIMITERS)}")
    with sys.stdin.buffer if name == STDIN else open(path, "rb") as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if line.strip():
                yield number, line, ""


def _holds_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt" or is_table(path)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Lines in UTF-8, or in UTF-16 with a byte order mark.

    Bytes that are not UTF-8 become lone surrogates.
    """
    stream = io.BufferedReader(stream) if not isinstance(stream, io.BufferedReader) else stream  # type: ignore
    utf_16 = stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    for line in io.TextIOWrapper(stream, "utf-16" if utf_16 else "utf-8-sig", errors="surrogateescape"):
        yield line.rstrip("\n")


def _sentence(identity: str, text: str) -> InputRow:
    if not text.strip():
        return _fault(identity, "the sentence is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        return _fault(identity, "not text in UTF-8")
    return _fault(identity, "it contains a NUL character") if "\0" in text else InputRow(identity, text)


def _fault(identity: str, reason: str) -> InputRow:
    return InputRow(identity, "", f"{identity}: {reason}")
