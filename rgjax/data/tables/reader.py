"""Read tables row by row: CSV, TSV, JSON Lines, JSON and parquet.

A bad row is a row with a fault, and reading goes on after it: training refuses or skips such rows, and predict names
them and reads the others. pyarrow does not read the text formats here: its errors name no lines, it does not detect
UTF-16, it limits fields to its block size, and it refuses JSON columns that mix numbers with text.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rgjax.data.listing import is_missing
from rgjax.data.notes import Note, note
from rgjax.data.tables.columns import ROLES, Columns, content_role
from rgjax.data.tables.dialects import Fields, delimiters_in, layout, read_rows
from rgjax.data.tables.json_rows import as_text, columns_of, is_array, read_json
from rgjax.data.tables.parquet import open_parquet
from rgjax.errors import UserError, first_few

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".parquet")  # of tables; a .json file may also hold settings
READ = (*SUFFIXES, ".json")
COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip"}
_RECORDS = "; pandas writes a row per object by to_json(orient='records', lines=True)"
_SAMPLE = 200  # rows from which the meaning of columns is guessed


class Row(NamedTuple):
    """One row of a table, or why it cannot be read.

    Attributes:
        number: the line on which it begins; in parquet files the number of the row. Both count from 1.
        values: role -> text; "" where the cell is empty. Of a faulty row, those that can be read.
        fault: one line without the place, or "".
    """

    number: int
    values: dict[str, str]
    fault: str = ""


class Record(NamedTuple):
    """A row before its columns have roles: column -> text, or a fault."""

    number: int
    values: Mapping[str, str]
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose columns are known.

    Attributes:
        file: where it lies.
        names: its columns.
        roles: role -> column.
        columns: the mapping that the user chose.
        read: yields the records with the given columns.
        first: what the first row's number counts from: the line of the header.
        unit: "line" or "row", which numbers count.
        notes: on the dialect and on lines that are not rows.
        embedded: the column that holds images themselves, or "".
    """

    file: Path
    names: tuple[str, ...]
    roles: dict[str, str]
    columns: Columns
    read: Callable[[Sequence[str]], Iterator[Record]]
    first: int = 1
    unit: str = "line"
    notes: tuple[Note, ...] = ()
    embedded: str = ""

    def place(self, number: int) -> str:
        return f"{self.file}, {self.unit} {number}"

    def content(self) -> str:
        """The role of its content: "text" or "path".

        Raises UserError if it has both.
        """
        roles = [role for role in ("text", "path") if role in self.roles]
        chosen = [role for role in roles if role in self.columns.names] or roles
        if len(chosen) == 2:
            flag = self.columns.flag
            raise UserError(
                f"{self.file}: both columns, {' and '.join(self.roles[role] for role in chosen)}; choose the images by "
                f"{flag}=path:{self.roles['path']} or the texts by {flag}=text:{self.roles['text']}"
            )
        return chosen[0] if chosen else content_role(self.names, self._sample(), self.file.parent)

    def rows(self, *required: str) -> Iterator[Row]:
        """The rows in order. A row has a fault if a required cell is empty.

        Raises UserError if the table lacks a required column or is damaged.
        """
        self.require(*required)
        columns = list(dict.fromkeys(self.roles.values()))
        for record in self.read(columns):
            values = {role: record.values.get(column, "") for role, column in self.roles.items()}
            yield Row(record.number, values, record.fault or self._fault(values, record.values, required))

    def require(self, *roles: str) -> None:
        """Raise UserError, with the way out, unless each role has a column.

        A table in which no row can be read has no columns, but faults that say more.
        """
        missing = [role for role in roles if role not in self.roles]
        if not missing or (not self.names and any(record.fault for record in islice(self.read(()), 1))):
            return
        where = f"{self.file}, line {self.first}" if self.unit == "line" else str(self.file)
        columns = first_few(map(repr, self.names) if not all(self.names) else self.names, limit=20) or "none"
        sample = self._sample()
        if any(name and name in (row.get(name) for row in sample) for name in self.names):
            fix = f"; line {self.first} seems to be an example: add a line before it with the names of the columns"
        elif proposal := self.columns.proposal(self.names, missing, sample, self.file.parent):
            fix = f"; if others are meant, name them: {proposal}"
        elif len(self.names) == 1 and (delimiter := delimiters_in(self.names)):
            fix = f"; separated by {delimiter!r}? rename it to {self.file.stem}.csv"
        else:
            fix = ""
        raise UserError(f"{where}: no column '{missing[0]}'; columns: {columns}{fix}")

    def _sample(self) -> list[Mapping[str, str]]:
        if self.file.suffix.lower() == ".parquet":  # a column may be large, such as images
            return []
        return [record.values for record in islice(self.read(self.names), _SAMPLE) if not record.fault]

    def _fault(self, values: dict[str, str], cells: Mapping[str, str], required: Sequence[str]) -> str:
        for role, column in self.roles.items():
            if not _is_text(values[role]):
                return _not_text(values[role])
            if role in required and not values[role].strip():
                if column not in cells:
                    return f"no column '{column}'; columns: {first_few(cells, limit=20) or 'none'}"
                return f"column '{column}' is empty; fill it in or remove the row"
        if "label" in required and is_missing(values["label"]):
            word = f"column '{self.roles['label']}' is '{values['label'].strip()}', which stands for a missing value"
            return f"{word}; fill it in, remove the row, or rename the class"
        return ""


def is_table(path: Path) -> bool:
    """Whether a file in a folder is a table by its suffix."""
    return path.suffix.lower() in SUFFIXES


def is_metadata(file: Path) -> bool:
    """Whether a table lies in Hugging Face's imagefolder: file_name, label."""
    return file.stem.lower() == "metadata" and is_table(file)


def open_table(file: Path, columns: Columns | None = None) -> Table:
    """Open a table; the format follows from the suffix.

    The encoding of the text formats is UTF-8, or UTF-16 with a byte order mark.

    Args:
        file: a .csv (separated by commas, semicolons, tabs or |), .tsv, .jsonl, .ndjson, .json or .parquet file.
        columns: the columns that have other names than their roles.

    Raises:
        UserError: if the file as a whole cannot be read.
    """
    suffix, columns = file.suffix.lower(), columns or Columns()
    if suffix not in READ:
        fix = "; unpack it" if suffix in COMPRESSED else ""
        raise UserError(f"{file}: not a table; the name must end in {', '.join(READ)}{fix}")
    if suffix == ".parquet":
        return _open_parquet(file, columns)
    text = _text(file)
    if suffix not in DELIMITERS:
        return _open_json(file, text, columns)
    return _open_separated(file, text, DELIMITERS[suffix], columns)


def _resolve(file: Path, names: Sequence[str], columns: Columns) -> dict[str, str]:
    try:
        roles = columns.resolve(names)
        paths = [name for name in names if re.fullmatch("(.*_)?file_name", name)]
        if is_metadata(file) and paths and not {"path", "text"} & columns.names.keys():
            roles = {role: column for role, column in roles.items() if role != "text"} | {"path": paths[0]}
        return roles
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


# Text


def _text(file: Path) -> str:
    """The content; bytes that are not UTF-8 become lone surrogates."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
    try:
        return content.decode("utf-16")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not text in UTF-16 ({error.reason}); save it as UTF-8") from error


def _is_text(text: str) -> bool:
    """False for what UTF-8 or NumPy cannot store."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _not_text(text: str) -> str:
    if any("\udc80" <= character <= "\udcff" for character in text):  # a byte that was not UTF-8
        return "not text in UTF-8; save it as UTF-8"
    return "not text: it has a NUL or half of a surrogate pair; remove it"


def _open_separated(file: Path, text: str, delimiters: str, columns: Columns) -> Table:
    known = {name.casefold() for name in (*ROLES, *columns.names.values())}
    lines = layout(file.name, text, delimiters, lambda name: name.casefold() in known)

    def key_of(header: Sequence[str]) -> int | None:
        names = _names(header)
        label = replace(columns, optional=True).resolve(names).get("label")
        return names.index(label) if label else None

    rows, notes = read_rows(file.name, lines, key_of, quoting=delimiters != "\t")
    header = rows[0] if rows else Fields(0, 1, [])
    names, first = _names(header.fields), header.start + 1
    if header.fault or not _is_text("".join(names)):
        raise UserError(f"{file}, line {first}: {header.fault or 'not text in UTF-8; save it as UTF-8'}")
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise UserError(f"{file}, line {first}: columns with the same name '{first_few(repeated)}'; rename them")
    again = [row for row in rows[1:] if row.fields == header.fields and not row.fault]
    notes = (*lines.notes, *notes, *note("repeated_header", (f"{file.name}, line {row.start + 1}" for row in again)))

    def read(_: Sequence[str]) -> Iterator[Record]:
        for row in rows[1:]:
            if row.fields != header.fields or row.fault:
                yield from _record(row, names)

    named = tuple(filter(None, names))
    return Table(file, named, _resolve(file, named, columns), columns, read, first, notes=notes)


def _names(header: Sequence[str]) -> list[str]:
    return [name.strip().lstrip("\ufeff") for name in header]


def _record(row: Fields, names: Sequence[str]) -> Iterator[Record]:
    fields, number = row.fields, row.start + 1
    if row.fault:
        yield Record(number, {}, row.fault)
    elif len(fields) == len(names) or (len(fields) > len(names) and not any(fields[len(names) :])):
        yield Record(number, {name: field for name, field in zip(names, fields, strict=False) if name})
    elif len(fields) == len(names) - 1 and not names[-1]:  # only the header ends in a separator
        yield Record(number, dict(zip(names, fields, strict=False)))
    elif any(field.strip() for field in fields):
        fault = f"{len(fields)} fields, but the header has {len(names)}; put quotes around fields that hold a "
        yield Record(number, {}, f"{fault}separator or a line break")


def _open_json(file: Path, text: str, columns: Columns) -> Table:
    try:
        rows = read_json(text)
    except ValueError as error:
        raise UserError(f"{file}, {error}") from error
    if not rows:
        raise UserError(f"{file}: no rows")
    names = columns_of(rows)
    roles = _resolve(file, names, columns)
    used = set(roles.values())

    def read(columns: Sequence[str]) -> Iterator[Record]:
        for number, values, fault in rows:
            nested = next((name for name in used if isinstance(values.get(name), dict | list)), None)
            fault = fault or (f"'{nested}' must be text or a number{_RECORDS}" if nested else "")
            yield Record(number, {name: as_text(values[name]) if name in columns else "" for name in values}, fault)

    unit = "row" if is_array(text) else "line"
    return Table(file, names, roles, columns, read, first=rows[0].number, unit=unit)


def _open_parquet(file: Path, columns: Columns) -> Table:
    """A parquet file.

    A column of images has the role path, and the number of the row as its text.
    """
    table = open_parquet(file)
    roles = _resolve(file, table.columns, columns)
    if "path" not in roles and "text" not in columns.names and table.images:
        if len(table.images) > 1:
            fix = f"choose one by {columns.flag}=path:{next(iter(table.images))}"
            raise UserError(f"{file}: several columns hold images: {first_few(table.images)}; {fix}")
        roles |= {"path": next(iter(table.images))}
    embedded = roles["path"] if roles.get("path") in table.images else ""
    if len(table.class_names) == 1:
        roles.setdefault("label", next(iter(table.class_names)))
    if nested := [name for name in roles.values() if name in table.nested and name != embedded]:
        kind = table.nested[nested[0]]
        raise UserError(f"{file}: column '{nested[0]}' is of type {kind}; it must be text or a number")

    def read(names: Sequence[str]) -> Iterator[Record]:
        plain = [name for name in names if name != embedded]
        rows = table.rows(plain) if plain else ({} for _ in range(table.num_rows))
        for number, values in enumerate(rows, start=1):
            yield Record(number, values | {embedded: str(number)} if embedded else values)

    return Table(file, table.columns, roles, columns, read, unit="row", embedded=embedded)
