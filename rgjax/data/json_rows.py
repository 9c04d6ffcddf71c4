"""Read the rows of JSON Lines, or of one JSON array of objects."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_DECODER = json.JSONDecoder(
    parse_int=str,
    parse_float=str,
    parse_constant=lambda name: None if name == "NaN" else name,  # pandas writes missing values as NaN
)
_SPACE = re.compile(r"\s*")


class JsonRow(NamedTuple):
    """One object with the line on which it begins, or why it is none."""

    line: int
    values: dict[str, Any]
    fault: str = ""


def read_json(text: str) -> list[JsonRow]:
    """The rows of a file; numbers keep their spelling, and NaN is None."""
    if text.lstrip().startswith("[") and not _is_value(text.lstrip().splitlines()[0]):
        return list(_array(text))
    return [_row(line, content) for line, content in enumerate(re.split(r"\r\n|\r|\n", text), 1) if content.strip()]


def as_text(value: object) -> str:
    """A JSON value as it stands in a table; null is ""."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def columns_of(rows: Sequence[JsonRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row.values))


def _is_value(line: str) -> bool:
    """Whether a first line is complete, as in JSON Lines."""
    try:
        _DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _row(line: int, content: str) -> JsonRow:
    try:
        return _checked(line, _DECODER.decode(content.strip()))
    except (ValueError, RecursionError) as error:
        return JsonRow(line, {}, f"not JSON ({error}); each line must be one object")


def _checked(line: int, value: Any) -> JsonRow:
    if not isinstance(value, dict):
        return JsonRow(line, {}, 'not a JSON object such as {"text": ...}')
    return JsonRow(line, value)


def _array(text: str) -> Iterator[JsonRow]:
    """The elements of an array; what follows a mistake cannot be read."""
    position, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    counted = text.index("[")
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches everywhere
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield JsonRow(line, {}, f"not JSON ({error}); what follows is not read")
            return
        yield _checked(line, value)
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            yield JsonRow(line, {}, "not JSON (no comma or bracket after the object); what follows is not read")
            return
