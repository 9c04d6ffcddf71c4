"""User-facing errors, and text that fits on one line of a terminal."""

import difflib
from collections.abc import Iterable

_MAX_CHARACTERS = 4000  # of a message


class UserError(Exception):
    """Bad input, described in one line; commands exit with code 2.

    The line names the field, file or row, the fact and the fix.
    """

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


def one_line(text: str) -> str:
    """Join lines, escape unprintable characters and shorten a very long text."""
    text = " ".join(text.splitlines())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    half = _MAX_CHARACTERS // 2
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for an invalid name; it suggests the nearest of the valid ones."""
    valid = list(valid)
    return UserError(f"unknown {kind} '{name}'{did_you_mean(nearest(name, valid))}; valid: {', '.join(valid)}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """The valid name that is most like `name`, or "" if none is close."""
    return next(iter(difflib.get_close_matches(name, list(valid), n=1)), "")


def did_you_mean(name: str) -> str:
    return f" (did you mean '{name}'?)" if name else ""


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 file", "2 files"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """The first few of many names, for a message of one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
