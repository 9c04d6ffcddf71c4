"""Read the rows of JSON Lines, or of one JSON array of objects."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs.

    Raises ValueError for a repeated key, of which only one value would be read.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' occurs twice")
    return values


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=str,
    parse_float=str,
    parse_constant=lambda name: None if name == "NaN" else name,  # pandas writes missing values as NaN
)


class JsonRow(NamedTuple):
    """One object with its line, or its number in an array, or why it is none."""

    number: int
    values: dict[str, Any]
    fault: str = ""


def is_array(text: str) -> bool:
    """Whether a file is one array, and no JSON Lines."""
    return text.lstrip().startswith("[")


def read_json(text: str) -> list[JsonRow]:
    """The rows of a file; numbers keep their spelling, and NaN is None.

    Raises ValueError with a line for a damaged array: nobody knows how many rows follow the damage.
    """
    if is_array(text):
        return [_checked(number, value) for number, value in enumerate(_array(text), start=1)]
    return [_row(line, content) for line, content in enumerate(re.split(r"\r\n|\r|\n", text), 1) if content.strip()]


def as_text(value: object) -> str:
    """A JSON value as it stands in a table; null is ""."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def columns_of(rows: Sequence[JsonRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row.values))


def _row(line: int, content: str) -> JsonRow:
    try:
        return _checked(line, _DECODER.decode(content.strip()))
    except (ValueError, RecursionError) as error:
        return JsonRow(line, {}, f"not JSON ({error}); each line must be one object")


def _checked(number: int, value: Any) -> JsonRow:
    if not isinstance(value, dict):
        return JsonRow(number, {}, 'not a JSON object such as {"text": ...}')
    return JsonRow(number, value)


def _array(text: str) -> list[Any]:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not one JSON array ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line 1: not a JSON array ({error})") from error
