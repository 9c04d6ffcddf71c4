"""Messages, tables, progress bars, exit codes and signals of all commands.

Modules log to `logging.getLogger(__name__)`. A command shows INFO as it is and WARNING behind "rgjax: ", one line each,
on standard error.

A scheduler sends SIGTERM before it takes the machine away: training saves a checkpoint and ends, everything else ends
at once. All files are written atomically, so only the work since the last file is lost.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from rgjax.errors import Preempted, UserError, one_line

GRACE = 9.0  # seconds from SIGTERM to a forced end; Slurm and Kubernetes grant 30 or more

_LOGGER = logging.getLogger("rgjax")
_requested, _deferred = threading.Event(), threading.Event()


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
    return jax is None or jax.process_index() == 0


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


def local_path(name: str) -> Path:
    """The local path `name`, with `~` expanded. Raises UserError for a URL."""
    if "://" in name:
        raise UserError(f"{name}: not a local path; mount the bucket (gcsfuse, rclone mount) and pass the mount point")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of an unknown user
        return Path(name)


# Exit codes


@contextlib.contextmanager
def exit_codes(*, interrupted: str = "") -> Iterator[None]:
    """Turn the errors of a command into one line and an exit code.

    The code is 2 for a user's error, 130 for an interruption and 143 for SIGTERM.

    Args:
        interrupted: what follows "interrupted" in the line, such as how to resume.
    """
    try:
        yield
    except UserError as error:
        _exit_2(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _exit_2(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print(f"\nrgjax: interrupted{interrupted}", file=sys.stderr)
        sys.exit(130)
    except Preempted:
        print(f"\nrgjax: stopped by SIGTERM{interrupted}", file=sys.stderr, flush=True)
        os._exit(143)  # exit handlers, such as waiting for other processes, may take longer than there is time


def _exit_2(reason: str) -> None:
    print(f"rgjax: {one_line(reason)}", file=sys.stderr, flush=True)
    sys.exit(2)


# SIGTERM


def listen_for_sigterm() -> None:
    """Make SIGTERM raise Preempted, except inside `deferring_sigterm`.

    The main thread raises it. After GRACE seconds the process is forced to end, in case the main thread waits for a
    compiler or a device.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    # A separate thread, because Python runs signal handlers only after the main thread returns from native code.
    def watch(ours: socket.socket, _: socket.socket) -> None:
        while signal.SIGTERM not in ours.recv(1):
            pass
        _requested.set()
        threading.Event().wait(GRACE)
        _LOGGER.warning("SIGTERM: forced to end, because %g s were not enough to save", GRACE)
        os._exit(128 + signal.SIGTERM)

    def handle(number, frame) -> None:
        _requested.set()
        if not _deferred.is_set():
            raise Preempted

    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, args=(ours, theirs), daemon=True).start()
    signal.signal(signal.SIGTERM, handle)


@contextlib.contextmanager
def deferring_sigterm() -> Iterator[None]:
    """Hold Preempted back until the block ends.

    The block polls `sigterm_requested()` and returns early.
    """
    _deferred.set()
    try:
        yield
    finally:
        _deferred.clear()
    if sigterm_requested():
        raise Preempted


def sigterm_requested() -> bool:
    return _requested.is_set()


def request_sigterm() -> None:
    """Request the end of a `deferring_sigterm` block, as SIGTERM does."""
    _requested.set()
