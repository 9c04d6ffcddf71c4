"""Read tables that users write: CSV, TSV and JSON Lines.

pyarrow does not replace this module: its errors name no lines, it does not detect UTF-16, it limits fields to its block
size, and it refuses JSON columns that mix numbers with text.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rgjax.errors import UserError, first_few

DELIMITERS = {".csv": ",;\t", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}
_MAX_FIELD = 2**31 - 1  # characters; Python's default is 131,072


def is_table(path: Path) -> bool:
    """Whether `read_table` reads files with this suffix."""
    return path.suffix.lower() in DELIMITERS


def read_table(file: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a table as dicts from column to text.

    The format follows from the suffix: .csv (separated by commas, semicolons or tabs), .tsv, .jsonl or .ndjson. The
    encoding is UTF-8, or UTF-16 with a byte order mark. All rows have the same columns. In JSON, a missing key and null
    become "", and numbers are kept as they are written.

    Raises UserError if the file cannot be read, or if a `required` column is missing or empty in a row.
    """
    if not is_table(file):
        raise UserError(f"{file}: not a table; the name must end in {', '.join(DELIMITERS)}")
    text = _text(file)
    delimiters = DELIMITERS[file.suffix.lower()]
    rows = list(_separated(file, text, delimiters, required) if delimiters else _json_lines(file, text, required))
    if not rows:
        raise UserError(f"{file}: no rows")
    for line, row in rows:
        for column in required:
            if not row[column].strip():
                raise UserError(f"{file}, line {line}: column '{column}' is empty; fill it in or remove the row")
    return [row for _, row in rows]


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8"
    content = content if is_utf16 else content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise UnicodeDecodeError(encoding, content, content.find(b"\0"), content.find(b"\0") + 1, "a NUL")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: not text in {encoding.upper()}; save it as UTF-8") from error
    return text


def _separated(file: Path, text: str, delimiters: str, required: Sequence[str]) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(_MAX_FIELD)
    rows = _fields(file, text, max(delimiters, key=lambda delimiter: _fit(text, delimiter, required)))
    line, names = next(rows, (1, []))
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        repeated = first_few(sorted({name for name in names if names.count(name) > 1}))
        raise UserError(f"{file}, line {line}: columns with the same name '{repeated}'; rename them")
    _require(file, line, required, names)
    for line, fields in rows:
        if len(fields) != len(names):
            raise UserError(
                f"{file}, line {line}: {len(fields)} fields, but the header has {len(names)}; put quotes around fields "
                "that hold a separator or a line break"
            )
        yield line, dict(zip(names, fields, strict=True))


def _fields(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line on which it begins; blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{file}, line {line}: {error}; a field that begins with a quote must end with one, and quotes inside it "
            "must be doubled"
        ) from error


def _fit(text: str, delimiter: str, required: Sequence[str]) -> tuple[int, int]:
    """Score of a delimiter: the number of required columns, then of all columns."""
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
            raise UserError(f"{file}, line {line}: not JSON ({error}); each line must be one object") from error
        if not isinstance(row, dict):
            raise UserError(f'{file}, line {line}: not a JSON object such as {{"{required[0]}": ...}}')
        if not _is_text("".join(part for item in row.items() for part in item if isinstance(part, str))):
            raise UserError(f"{file}, line {line}: not text: it has a NUL or half of a surrogate pair; remove it")
        _require(file, line, required, list(row))
        if nested := next((name for name in required if isinstance(row[name], (dict, list))), None):
            raise UserError(f"{file}, line {line}: '{nested}' must be text or a number")
        rows.append((line, row))
    columns = dict.fromkeys(name for _, row in rows for name in row)
    for line, row in rows:
        yield line, {name: _as_text(row.get(name)) for name in columns}


def _is_text(text: str) -> bool:
    """False for characters that JSON can escape but UTF-8 or NumPy cannot store."""
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
        columns = first_few(names, limit=20) or "none"
        raise UserError(f"{file}, line {line}: no column '{missing[0]}'; columns: {columns}")
