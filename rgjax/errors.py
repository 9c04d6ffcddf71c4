"""User-facing errors, and text that fits on one line of a terminal."""

import difflib
from collections.abc import Iterable

_MAX_CHARACTERS = 4000  # of a message


class UserError(Exception):
    """Bad input: one line that names the field, file or row, the fact and the fix. Exit code 2."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


class Preempted(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, it is no error that code may handle."""


def one_line(text: str) -> str:
    """Escape unprintable characters and cut the middle out of a very long text, so that a terminal can show it."""
    text = " ".join(text.splitlines())
    text = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return (
        text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS // 2]} ... {text[-_MAX_CHARACTERS // 2 :]}"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not valid; it suggests the nearest valid one and lists them all."""
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    guess = f" (did you mean '{near[0]}'?)" if near else ""
    return UserError(f"unknown {kind} '{name}'{guess}; valid: {', '.join(valid)}")


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """The first few of many names, for a message of one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
