"""The error that a user can cause, and how a command tells it."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

_LONGEST = 4000  # characters of a message


class UserError(Exception):
    """What the user gave is wrong: one line that names the field, file or row, and the way out. Exit code 2."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


def one_line(text: str) -> str:
    """`text` as a terminal can show it, whatever was quoted in it: unprintable characters are escaped, and of a very
    long text the middle is left out."""
    text = " ".join(text.splitlines())
    text = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Preempted(BaseException):
    """SIGTERM has come. As KeyboardInterrupt, it is no error that any code may handle."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not among the valid ones: it suggests the nearest and lists them all."""
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    guess = f" (did you mean '{near[0]}'?)" if near else ""
    return UserError(f"unknown {kind} '{name}'{guess}; valid: {', '.join(valid)}")


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """The first names of a list, for an error message that must stay one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def tell(news: str) -> None:
    """Say in one line what happened that the run goes on from."""
    print(f"rgjax: {one_line(news)}", file=sys.stderr, flush=True)


def refuse(reason: str) -> NoReturn:
    tell(reason)
    sys.exit(2)


@contextlib.contextmanager
def told_in_one_line(*, interrupted: str = "") -> Iterator[None]:
    """Around a command: exit 2 with one line for what the user can mend, 130 for an interruption, 143 for SIGTERM."""
    try:
        yield
    except UserError as error:
        refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print(f"\nrgjax: interrupted{interrupted}", file=sys.stderr)
        sys.exit(130)
    except Preempted:
        print(f"\nrgjax: ended by SIGTERM{interrupted}", file=sys.stderr, flush=True)
        os._exit(143)  # what is left to do at an exit, as waiting for other processes, may take longer than there is
