"""Tables that users write: CSV, TSV and JSON Lines."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rgjax.errors import UserError, first_few

DELIMITERS = {".csv": ",;\t", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}
_LONGEST_FIELD = 2**31 - 1  # Python's own limit is 131,072 characters


def is_table(path: Path) -> bool:
    """Whether the suffix is one that `read_table` knows."""
    return path.suffix.lower() in DELIMITERS


def read_table(file: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table, column -> value, by the suffix of the file: .csv (with , or ; or tabs), .tsv, .jsonl.

    Text in UTF-8, or in UTF-16 with its mark. All rows have the same columns; what a JSON object lacks, or has as
    null, is "", and its numbers are as they are written. Raises UserError for what cannot be read, and where one of
    the `required` columns is missing or empty.
    """
    if not is_table(file):
        raise UserError(f"{file} is no table that can be read: it must end in {', '.join(DELIMITERS)}")
    text = _text(file)
    delimiters = DELIMITERS[file.suffix.lower()]
    rows = list(_separated(file, text, delimiters, required) if delimiters else _json_lines(file, text, required))
    if not rows:
        raise UserError(f"{file} has no rows")
    for line, row in rows:
        for column in required:
            if not row[column].strip():
                raise UserError(f"{file}, line {line}: column '{column}' is empty; fill it in or remove the row")
    return [row for _, row in rows]


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if wide else "utf-8"
    content = content if wide else content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise UnicodeDecodeError(encoding, content, content.find(b"\0"), content.find(b"\0") + 1, "a NUL")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: this is not text in {encoding.upper()}; save it as UTF-8") from error
    return text


def _separated(file: Path, text: str, delimiters: str, required: Sequence[str]) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(_LONGEST_FIELD)
    rows = _fields(file, text, max(delimiters, key=lambda delimiter: _fit(text, delimiter, required)))
    line, names = next(rows, (1, []))
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        repeated = first_few(sorted({name for name in names if names.count(name) > 1}))
        raise UserError(f"{file}, line {line}: columns have the same name ('{repeated}'): rename them")
    _require(file, line, required, names)
    for line, fields in rows:
        if len(fields) != len(names):
            raise UserError(
                f"{file}, line {line}: {len(fields)} fields, where the header has {len(names)}; put quotes around "
                "what holds a separator or a line break"
            )
        yield line, dict(zip(names, fields, strict=True))


def _fields(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line that it begins on; blank lines are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{file}, line {line}: {error}; a field that begins with a quote must end with one, and quotes in it "
            "are doubled"
        ) from error


def _fit(text: str, delimiter: str, required: Sequence[str]) -> tuple[int, int]:
    """How well a delimiter suits the header: by the required columns found, then by the number of all columns."""
    header = text.lstrip().partition("\n")[0]
    names = [name.strip().strip('"') for name in header.split(delimiter)]
    return sum(name in names for name in required), len(names)


def _json_lines(file: Path, text: str, required: Sequence[str]) -> Iterator[tuple[int, dict]]:
    rows = []
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {line}: this is not JSON ({error}); each line is one object") from error
        if not isinstance(row, dict):
            raise UserError(f'{file}, line {line}: this is no JSON object, such as {{"{required[0]}": ...}}')
        if not _is_text("".join(part for item in row.items() for part in item if isinstance(part, str))):
            raise UserError(f"{file}, line {line}: this is not text: it has a NUL, or half of a surrogate pair")
        _require(file, line, required, list(row))
        if nested := next((name for name in required if isinstance(row[name], (dict, list))), None):
            raise UserError(f"{file}, line {line}: '{nested}' must be a text or a number")
        rows.append((line, row))
    columns = dict.fromkeys(name for _, row in rows for name in row)
    for line, row in rows:
        yield line, {name: _as_text(row.get(name)) for name in columns}


def _is_text(text: str) -> bool:
    """What JSON can escape, and UTF-8 or NumPy would not keep, is none."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _require(file: Path, line: int, required: Sequence[str], names: Sequence[str]) -> None:
    if missing := [name for name in required if name not in names]:
        there_are = first_few(names, limit=20) or "none"
        raise UserError(f"{file}, line {line}: there is no column '{missing[0]}'; columns: {there_are}")
