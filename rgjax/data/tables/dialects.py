"""Split the text of a .csv or .tsv file into rows, in the dialect that fits it.

A wrong dialect can be well-formed: a quotation mark that belongs to a text, read as the begin of a quoted field,
swallows all rows up to the next mark. So every dialect that may be meant is tried, the one with the fewest faults is
taken, and a quoted field that holds rows of its own is a fault. After a fault, reading goes on in the next line.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rgjax.data.notes import Note, note

_MAX_FIELD = 2**31 - 1  # characters; Python's default is 131,072
_RULE = "a field that begins with a quote must end with one, and quotes inside it must be doubled"
_SWALLOWED = (
    f"a quoted field begins here and holds the lines after it, which look like rows; {_RULE}; if it is right as it is, "
    "save the table as .jsonl"
)
_INSIDE = f"it may belong to a quoted field that begins in a line before; {_RULE}"


class Fields(NamedTuple):
    """The fields of one row, or why it cannot be read.

    Attributes:
        start: index of its first line.
        end: index of the line after it.
        fields: the cells.
        fault: the reason, or "".
    """

    start: int
    end: int
    fields: list[str]
    fault: str = ""


class Layout(NamedTuple):
    """A file's lines from its header on.

    Attributes:
        lines: all lines with their ends.
        delimiter: between fields.
        header: index of the line of the header.
        notes: on lines that were skipped.
    """

    lines: list[str]
    delimiter: str
    header: int
    notes: tuple[Note, ...]


def layout(file: str, text: str, delimiters: str, is_role: Callable[[str], bool]) -> Layout:
    """Find the header of a table and the character between its fields.

    Args:
        file: the name of the file, for notes.
        text: its content.
        delimiters: the characters that may be meant, the likeliest first.
        is_role: whether a column of this name is one that is needed.
    """
    lines = list(io.StringIO(text, newline=""))  # ends lines at \n, \r\n and \r, and nowhere else

    def fit(line: str, delimiter: str) -> tuple[int, int]:
        row = _one(line, delimiter)
        return sum(is_role(name.strip()) for name in row.fields), 0 if row.fault else len(row.fields)

    start, comments = 0, []
    if lines and (declared := re.fullmatch(r"sep=(.)[\r\n]*", lines[0])):  # Excel's way to name the separator
        delimiters, start = declared[1], 1
    while start < len(lines):
        roles = max(fit(lines[start], delimiter)[0] for delimiter in delimiters)
        if lines[start].strip() and (roles or not lines[start].startswith("#")):
            break
        comments += [f"{file}, line {start + 1}"] if lines[start].strip() else []
        start += 1
    first = lines[start] if start < len(lines) else ""
    delimiter = max(delimiters, key=lambda delimiter: fit(first, delimiter))
    return Layout(lines, delimiter, start, note("comment_line", comments))


def read_rows(
    file: str, table: Layout, key_of: Callable[[Sequence[str]], int | None], *, quoting: bool
) -> tuple[list[Fields], tuple[Note, ...]]:
    """The rows of a table, the header first, in the dialect with the fewest faults.

    Args:
        file: the name of the file, for notes.
        table: its lines.
        key_of: from the header to the index of the column of labels, by which rows are recognized, or to None.
        quoting: the type of file has quoted fields by custom. Else they are taken as such only if all are.

    Returns:
        The rows, and notes on the dialect.
    """
    lines, delimiter = table.lines, table.delimiter
    text = "".join(lines[table.header :])
    if '"' not in text:
        return list(_plain(lines, table.header, delimiter)), ()

    quoted = _without_swallowed(list(_quoted(lines, table.header, delimiter)), lines, delimiter, key_of)
    if f'{delimiter} "' in text:
        spaced = list(_quoted(lines, table.header, delimiter, spaces=True))
        spaced = _without_swallowed(spaced, lines, delimiter, key_of)
        if _faults(spaced) <= _faults(quoted):
            return spaced, note("spaced_quotes", [file])
    if not quoting:
        plain = list(_plain(lines, table.header, delimiter))
        improper = re.search(rf'(?m)(?:^|{re.escape(delimiter)})[^"{re.escape(delimiter)}\r\n]+"', text)
        consistent = not improper and not _faults(quoted) and (len(quoted) == len(plain) or _faults(plain))
        if not consistent and _faults(plain) <= _faults(quoted):
            marked = [row.start for row in plain if any(field.startswith('"') for field in row.fields)]
            return plain, note("literal_quote", (f"{file}, line {start + 1}" for start in marked))
    elif _faults(quoted) and '\\"' in text:
        doubled = [line.replace('\\"', '""') for line in lines]
        escaped = _without_swallowed(list(_quoted(doubled, table.header, delimiter)), doubled, delimiter, key_of)
        if _faults(escaped) < _faults(quoted):
            return escaped, note("backslash_quotes", [file])
    return quoted, ()


def _faults(rows: Sequence[Fields]) -> int:
    return sum(bool(row.fault) or (len(row.fields) != len(rows[0].fields) and any(row.fields)) for row in rows)


def _plain(lines: Sequence[str], start: int, delimiter: str) -> Iterator[Fields]:
    for index in range(start, len(lines)):
        if content := lines[index].rstrip("\r\n"):
            yield Fields(index, index + 1, content.split(delimiter))


def _quoted(lines: Sequence[str], start: int, delimiter: str, *, spaces: bool = False) -> Iterator[Fields]:
    """Rows with quoted fields; with `spaces`, spaces may precede a field.

    Each line is read a few times at most, so that a bad file takes little time.
    """
    dialect: dict[str, Any] = {"delimiter": delimiter, "strict": True, "skipinitialspace": spaces}
    csv.field_size_limit(_MAX_FIELD)
    suspect = -1  # the line in which a bad quoted field seemed to end
    while start < len(lines):
        reader = csv.reader((lines[i] for i in range(start, len(lines))), **dialect)
        first = start
        try:
            for fields in reader:
                row = Fields(start, first + reader.line_num, fields)
                if fields:
                    yield row._replace(fault=_INSIDE) if start == suspect and _odd(lines[start]) else row
                start = row.end
        except csv.Error as error:
            suspect = first + reader.line_num - 1
            yield Fields(start, start + 1, [], f"{error}; {_RULE}")
            yield from _one_by_one(lines, start + 1, suspect, delimiter)
            start = max(start + 1, suspect)


def _one_by_one(lines: Sequence[str], start: int, end: int, delimiter: str) -> Iterator[Fields]:
    """Lines inside a bad quoted field, as rows unless one has half a pair of quotes."""
    for index in range(start, end):
        row = _one(lines[index], delimiter)
        if row.fields or row.fault:
            yield Fields(index, index + 1, row.fields, row.fault or (_INSIDE if _odd(lines[index]) else ""))


def _one(line: str, delimiter: str) -> Fields:
    try:
        return Fields(0, 1, next(csv.reader([line], delimiter=delimiter, strict=True), []))
    except csv.Error as error:
        return Fields(0, 1, line.rstrip("\r\n").split(delimiter), f"{error}; {_RULE}")


def _odd(line: str) -> bool:
    return line.count('"') % 2 == 1


def _without_swallowed(
    rows: list[Fields], lines: Sequence[str], delimiter: str, key_of: Callable[[Sequence[str]], int | None]
) -> list[Fields]:
    """The rows; one that holds others is replaced by a fault and by those others."""
    if not rows or all(row.end == row.start + 1 for row in rows):
        return rows
    looks_like_row = _recognizer(rows, delimiter, key_of(rows[0].fields))
    result: list[Fields] = []
    for row in rows:
        if row.end > row.start + 1 and looks_like_row(lines[row.start : row.end]):
            result.append(Fields(row.start, row.start + 1, [], _SWALLOWED))
            result += _one_by_one(lines, row.start + 1, row.end, delimiter)
        else:
            result.append(row)
    return result


def _recognizer(rows: Sequence[Fields], delimiter: str, key: int | None) -> Callable[[Sequence[str]], bool]:
    """A function that tells whether the lines of one row are several rows.

    With labels: two of the lines or more have a label that occurs in the table, at its place counted from either end,
    because the text may have delimiters. Without: all lines have as many fields as the header, and the shapes of
    those in one column or more, such as numbers, are as in the rest.
    """
    width = len(rows[0].fields)
    body = [row.fields for row in rows[1:] if len(row.fields) == width]
    if key is not None:
        labels = {fields[key] for fields in body}

        def has_label(line: str) -> bool:
            cells = line.rstrip("\r\n").split(delimiter)
            return len(cells) >= width and (cells[key] in labels or cells[key - width] in labels)

        return lambda several: sum(map(has_label, several)) >= 2

    single = [row.fields for row in rows[1:] if row.end == row.start + 1 and len(row.fields) == width]
    shapes = [{_shape(fields[i]) for fields in single} for i in range(width)]
    telling = [i for i in range(width) if len(shapes[i]) == 1] if width > 1 else []

    def is_row(line: str) -> bool:
        cells = line.rstrip("\r\n").split(delimiter)
        return len(cells) == width and any(_shape(cells[i]) in shapes[i] for i in telling)

    return lambda several: all(map(is_row, several))


def _shape(cell: str) -> str:
    """A cell with its digits and letters replaced, to compare ids and numbers."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", cell))


def delimiters_in(names: Iterable[str]) -> str:
    """The first separator that occurs in the names of a table's columns, or ""."""
    return next((c for name in names for c in ",;\t|" if c in name), "")
