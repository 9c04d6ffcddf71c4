"""Read the inputs of a prediction from files, folders, tables or standard input."""

import codecs
import io
import logging
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
from rgjax.data.feature_file import read_features
from rgjax.data.folders import files_below, is_image_file
from rgjax.data.foreign import count_kinds
from rgjax.data.notes import note
from rgjax.data.pictures.decode import Encoded, Unreadable, decode_with_remarks, examine
from rgjax.data.pictures.npz import is_npz, npz_images, npz_rows
from rgjax.data.tables.columns import Columns
from rgjax.data.tables.parquet import image_rows
from rgjax.data.tables.paths import find_file
from rgjax.data.tables.reader import READ, Row, Table, is_table, open_table
from rgjax.errors import UserError

_log = logging.getLogger(__name__)

STDIN = "-"
_READ_AHEAD = 64  # images that threads decode at a time


class InputRow(NamedTuple):
    """One input (image, sentence or features), or why it cannot be read.

    Attributes:
        id: its name in the output.
        content: an image uint8 [S, S, 3], a sentence or features [D]; while it is unread, a path or what a file holds.
        fault: one line that says why it cannot be read, or "".
        remarks: what a user may not expect of an image: keys of `rgjax.data.notes.KINDS`.
    """

    id: str
    content: Encoded | str | np.ndarray
    fault: str = ""
    remarks: tuple[str, ...] = ()


def images(names: Sequence[str], size: int, interpolation: str, columns: Columns) -> Iterator[InputRow]:
    """Read images from files, folders, tables of paths and standard input, in threads.

    Args:
        names: files, folders, or "-" for paths on standard input, one per line. In folders, at any depth, files
            without the suffix of an image and hidden files are skipped. A table has a column "path", relative to its
            folder; the id is that of its column "id", or the path.
        size: the side in pixels to which images are resized; 0 leaves them whole, but tests them.
        interpolation: how they are resized, `data.interpolation`.
        columns: the columns of tables that are not named after their roles.
    """
    rows = (row for name in names for row in _images_of(name, columns))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(rows, _READ_AHEAD)):
            yield from pool.map(partial(_decoded, size=size, interpolation=interpolation), chunk)


def sentences(names: Sequence[str], texts: Sequence[str], columns: Columns) -> Iterator[InputRow]:
    """Read sentences from text files, tables and standard input.

    A text file has one sentence per line, and blank lines are skipped; a table has a column "text". An id is the line
    number, or the table's id if it has that column, else the row number; the name of the file precedes it unless there
    is only one.

    Args:
        names: files, folders, or "-" for standard input.
        texts: sentences themselves.
        columns: the columns of tables that are not named after their roles.
    """
    only_source = len(names) + bool(texts) == 1 and not any(local_path(name).is_dir() for name in names)
    for number, text in enumerate(texts, start=1):
        yield _sentence(str(number) if only_source else f"--text:{number}", text)
    for name in names:
        files = [InputRow(name, name)] if name == STDIN else _paths(name, _holds_text, "text files or tables")
        for file in files:
            yield from [file] if file.fault else _sentences_of(file.id, "" if only_source else f"{file.id}:", columns)


def features(names: Sequence[str], width: int) -> Iterator[InputRow]:
    """Read features of a width from .npz and parquet files, whose labels are not read.

    An id is that of the file, else the row number; the name of the file precedes it unless there is only one.
    """
    for name in names:
        try:
            file = read_features(name, "INPUT")
        except UserError as error:
            yield InputRow(name, "", str(error))
            continue
        if file.features.shape[1] != width:
            yield _fault(name, f"{file.features.shape[1]} features for each example; the run reads {width}")
            continue
        prefix = f"{name}:" if len(names) > 1 else ""
        for identity, vector in zip(file.ids, file.features, strict=True):
            yield InputRow(f"{prefix}{identity}", vector)


# Tables


def _holds_rows(name: str) -> bool:
    path = local_path(name)
    return name != STDIN and path.suffix.lower() in READ and not path.is_dir()


def _rows(table: Table, content: str) -> Iterator[tuple[str, Row]]:
    """Id and row of a table; the fault of a row names its place. Raises UserError."""
    for one in table.notes:
        _log.info(f"note: {one}")
    empty = True
    for number, row in enumerate(table.rows(content), start=1):
        empty = False
        fault = f"{table.place(row.number)}: {row.fault}" if row.fault else ""
        yield row.values.get("id", "").strip() or str(number), row._replace(fault=fault)
    if empty:
        raise UserError(f"{table.file}: no rows")


def _images_of(name: str, columns: Columns) -> Iterator[InputRow]:
    if name != STDIN and is_npz(path := local_path(name)):
        yield from _images_of_npz(name, path)
        return
    if not _holds_rows(name):
        yield from _paths(name, lambda path: is_image_file(str(path)), "images")
        return
    try:
        table = open_table(local_path(name), columns)
        rows = _rows(table, "path")
        if table.embedded:
            images = zip(rows, image_rows(table.file, table.embedded), strict=False)
            yield from (_content_of(identity, content) for (identity, _), content in images)
            return
        for identity, row in rows:
            yield _image_of(identity, row, table.file.parent)
    except UserError as error:
        yield InputRow(name, "", str(error))


def _images_of_npz(name: str, file: Path) -> Iterator[InputRow]:
    """The images of an .npz file in MedMNIST's form; their labels are not read."""
    try:
        counts = npz_images(file)
    except UserError as error:
        yield InputRow(name, "", str(error))
        return
    for split, count in counts.items():
        for row, content in zip(range(count), npz_rows(file, f"{split}_images"), strict=False):
            yield _content_of(f"{split}:{row}", content)


def _content_of(identity: str, content: Encoded | Unreadable) -> InputRow:
    return _fault(identity, str(content)) if isinstance(content, Unreadable) else InputRow(identity, content)


def _image_of(identity: str, row: Row, folder: Path) -> InputRow:
    """The path of an image in a table."""
    if row.fault:
        return InputRow(identity, "", row.fault)
    path = row.values["path"].strip()
    identity = row.values.get("id", "").strip() or path
    try:
        nearest = find_file(str(folder), path)
    except UserError as error:
        return _fault(identity, str(error))
    remarks = ("near_path",) if nearest and nearest != os.path.normpath(path) else ()
    return InputRow(identity, str(folder / (nearest or path)), remarks=remarks)


# Files and folders


def _paths(name: str, is_input: Callable[[Path], bool], noun: str) -> Iterator[InputRow]:
    """Resolve a name to paths: a file, a folder's files, or standard input's lines."""
    if name == STDIN:
        for line in _lines(sys.stdin.buffer):
            if line.strip():
                yield InputRow(line, line)
    elif not local_path(name).is_dir():
        yield InputRow(name, str(local_path(name)))
    else:
        empty, errors, skipped = True, [], []
        for path in files_below(local_path(name), errors.append):
            if is_input(path):
                empty = False
                yield InputRow(str(path), str(path))
            else:
                skipped.append(str(path))
        yield from (_fault(str(error.filename), str(error.strerror)) for error in errors)
        if empty and not errors:
            yield _fault(name, f"there are no {noun} in this folder")
        for one in note("other_kind", count_kinds(skipped), len(skipped)):
            _log.info(f"note: {one}")


def _decoded(row: InputRow, size: int, interpolation: str) -> InputRow:
    if row.fault:
        return row
    image = Path(row.content) if isinstance(row.content, str) else row.content
    if isinstance(image, Path) and image.exists() and not image.is_file():  # reading a pipe would block
        return _fault(row.id, "not a file")
    try:
        if not size:
            return InputRow(row.id, image, remarks=(*row.remarks, *examine(image).remarks))
        pixels, remarks = decode_with_remarks(image, size, interpolation)
        return InputRow(row.id, pixels, remarks=(*row.remarks, *remarks))
    except Unreadable as error:
        return _fault(row.id, str(error))


def _sentences_of(name: str, prefix: str, columns: Columns) -> Iterator[InputRow]:
    empty = True
    try:
        if _holds_rows(name):
            for identity, row in _rows(open_table(local_path(name), columns), "text"):
                yield InputRow(f"{prefix}{identity}", "" if row.fault else row.values["text"], row.fault)
            return
        for number, text in _numbered(name):
            empty = False
            yield _sentence(f"{prefix}{number}", text)
        if empty:
            yield _fault(name, "it holds no sentences")
    except UserError as error:
        yield InputRow(name, "", str(error))
    except (OSError, UnicodeError) as error:
        yield _fault(name, error.strerror if isinstance(error, OSError) and error.strerror else str(error))


def _numbered(name: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers."""
    if name != STDIN and not _holds_text(local_path(name)):
        raise UserError(f"{name}: not a file of sentences; give .txt, {', '.join(READ)}")
    with sys.stdin.buffer if name == STDIN else open(local_path(name), "rb") as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if line.strip():
                yield number, line


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
