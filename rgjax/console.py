"""Messages, tables, progress bars, exit codes and signals of all commands.

Modules log to `logging.getLogger(__name__)`. A command shows INFO as it is and WARNING behind "rgjax: ", one line each,
on standard error.

A scheduler sends SIGTERM before it takes the machine away: training saves a checkpoint and ends, everything else ends
at once, as it does after Ctrl-C. All files are written atomically, so only the work since the last file is lost.
"""

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from rgjax.edges import signals, streams
from rgjax.errors import UserError, one_line

_LOGGER = logging.getLogger("rgjax")


# Messages and tables


class _Console(logging.Handler):
    """Writes messages to the current standard error, above any progress bar.

    Only the first process shows INFO.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            tqdm.write(f"rgjax: {one_line(record.getMessage())}", file=sys.stderr)
            sys.stderr.flush()
        elif _is_first_process():
            tqdm.write(record.getMessage(), file=sys.stderr)


def configure_logging() -> None:
    """Show rgjax's log messages on standard error; calling it again has no effect."""
    if not any(isinstance(handler, _Console) for handler in _LOGGER.handlers):
        _LOGGER.addHandler(_Console())
        _LOGGER.setLevel(logging.INFO)
        _LOGGER.propagate = False


def progress(steps=None, what: str = "", total: int | None = None, *, unit: str, done: int = 0) -> tqdm:
    """Show a progress bar, in the first process only.

    It moves every second on a terminal and prints a line every ten seconds elsewhere.

    Args:
        steps: the iterable to wrap; None for a bar that the caller's `update` moves.
        what: the label.
        total: the number of steps, unless `len(steps)` tells it.
        unit: the noun of a step.
        done: steps completed earlier.
    """
    interval = 1.0 if sys.stderr.isatty() else 10.0
    return tqdm(
        steps,
        what,
        total,
        unit=unit,
        initial=done,
        mininterval=interval,
        maxinterval=interval,
        disable=not _is_first_process(),
    )


def _is_first_process() -> bool:
    jax = sys.modules.get("jax")  # a process that has not imported it is alone
    # Only a connected process asks for its number, as that starts the devices.
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def table(rows: Iterable[Sequence[object]], align: str, *, indent: str = "  ") -> str:
    """Lay out rows of cells in aligned columns, two spaces apart.

    Args:
        rows: the cells, the heading first; None leaves a cell blank, and a row may end early.
        align: a character for each column, "<" for left or ">" for right.
        indent: precedes every line.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(len(align))]
    lines = ("  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=False)) for row in cells)
    return "\n".join((indent + line).rstrip() for line in lines)


def in_words(seconds: float) -> str:
    """An estimated time, no more precise than it is: "about 3 minutes"."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if (count := seconds / length) >= 1.5:
            return f"about {round(count, -1 if count > 30 else 0):.0f} {unit}s"
    return "about a minute"


def local_path(name: str) -> Path:
    """The local path `name`, with `~` expanded. Raises UserError for a URL."""
    if "://" in name:
        raise UserError(f"{name}: not a local path; mount the bucket (gcsfuse, rclone mount) and pass the mount point")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of an unknown user
        return Path(name)


# Exit codes and signals


@contextlib.contextmanager
def exit_codes(*, interrupted: str = "") -> Iterator[None]:
    """Turn the errors of a command into one line and an exit code.

    The code is 2 for a user's error, 130 for an interruption and 143 for SIGTERM. It is 1, without a line, if the
    reader of standard output has ended. No buffered output is lost, and none is left that could fail later.

    Args:
        interrupted: what follows "interrupted" in the line, such as how to resume.
    """
    signals.raise_from_now(interrupted)
    try:
        with _flushed_output():
            yield
    except BaseException as error:  # with a signal, also what became of its exception in a library
        if number := signals.received() or (isinstance(error, KeyboardInterrupt) and signals.SIGINT):
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            signals.end(number)
        if isinstance(error, streams.ReaderGone):
            sys.exit(1)
        if not (line := _line(error)):
            raise
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(f"rgjax: {one_line(line)}", file=sys.stderr, flush=True)
        sys.exit(2)
    finally:
        signals.end_from_now()


@contextlib.contextmanager
def _flushed_output() -> Iterator[None]:
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _line(error: BaseException) -> str:
    """The line that tells a user's error; "" for an error of another kind."""
    match error:
        case UserError():
            return str(error)
        case OSError(filename=str() | bytes() | Path() as name, strerror=reason):
            return f"{name}: {reason}"
    return ""


@contextlib.contextmanager
def deferring_sigterm() -> Iterator[None]:
    """Hold Preempted back until the block ends.

    The block polls `sigterm_requested()` and returns early.
    """
    signals.defer_sigterm(True)
    try:
        yield
    finally:
        signals.defer_sigterm(False)
    if sigterm_requested():
        raise signals.Preempted


def sigterm_requested() -> bool:
    """Whether SIGTERM has arrived, here or in another process of the run."""
    return signals.sigterm_requested()


def request_sigterm() -> None:
    """Request the end of a `deferring_sigterm` block, as SIGTERM does."""
    signals.request_sigterm()
