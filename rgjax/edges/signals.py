"""SIGINT and SIGTERM of a command, from its first import to its end.

As long as nothing can be lost, a signal writes its line and ends the process at once. Between `raise_from_now` and
`end_from_now` it raises an exception in the main thread instead, so that files are closed, workers are stopped and
locks are released. The process ends at once all the same if
- a module is being imported, as native ones may crash on an exception;
- something drops the exception, such as `except: pass` or a destructor;
- the main thread stays in native code, such as a compiler, or cleaning up takes longer than GRACE;
- the user presses Ctrl-C again.

This module imports little: until it is there, a signal is the interpreter's.
"""

import os
import signal
import sys
from _thread import RLock
from signal import SIGINT, SIGTERM

GRACE = 9.0  # seconds from a signal to a forced end; Slurm and Kubernetes grant 30 or more
_PATIENCE = 2.0  # seconds that Ctrl-C waits for the main thread to return from native code


class Interrupted(KeyboardInterrupt):
    """SIGINT arrived. Unlike a KeyboardInterrupt, it can be referred to weakly."""


class Preempted(BaseException):
    """SIGTERM arrived. A BaseException, so that `except Exception` lets it pass."""


_ERRORS = {SIGINT: Interrupted, SIGTERM: Preempted}
_FACTS = {SIGINT: "interrupted", SIGTERM: "stopped by SIGTERM"}


class _State:
    raises = False  # else a signal ends the process at once
    hint = ""  # ends the line, such as how to resume
    defers_sigterm = False
    sigterm = False
    received: int | None = None  # the signal that ends the command
    raised: object = None  # a weak reference to its exception
    written = False


_state, _ending = _State(), RLock()


def guard() -> None:
    """Let signals end this process with one line."""
    for number in _ERRORS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, _handle)
    sys.excepthook, sys.unraisablehook = _unless_ending(sys.excepthook), _unless_ending(sys.unraisablehook)


def watch() -> None:
    """Watch for signals in a thread: handlers wait until native code returns."""
    import socket  # here and below: `guard` comes first, as these take some milliseconds
    import threading

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.excepthook = _unless_ending(threading.excepthook)
    threading.Thread(target=_watch, args=(ours, theirs), daemon=True).start()


def raise_from_now(hint: str) -> None:
    """Raise Interrupted or Preempted in the main thread; `hint` ends the line."""
    _state.raises, _state.hint = True, hint


def end_from_now() -> None:
    """End the process at once when a signal arrives."""
    _state.raises = False


def received() -> int | None:
    """The signal that ends the command, if one has arrived."""
    return _state.received


def sigterm_requested() -> bool:
    return _state.sigterm


def request_sigterm() -> None:
    """Let `sigterm_requested` return True, as SIGTERM does."""
    _state.sigterm = True


def defer_sigterm(defers: bool) -> None:
    """Set whether SIGTERM only lets `sigterm_requested` return True."""
    _state.defers_sigterm = defers


def end(number: int, fact: str = ""):
    """Write the signal's line and end the process, with the exit code 128 + number.

    Exit handlers, such as waiting for other processes, may take longer than there is time.
    """
    _ending.acquire()  # never released: another thread that ends the process waits here
    line = _fresh_line() + f"rgjax: {fact or _FACTS[signal.Signals(number)] + _state.hint}\n"
    if not _state.written:
        _state.written = True
        try:  # noqa: SIM105 (contextlib is not imported yet)
            os.write(2, line.encode("ascii", "backslashreplace"))
        except OSError:
            pass
    os._exit(128 + number)


def _fresh_line() -> str:
    """A line feed if the cursor is behind the terminal's ^C or a progress bar."""
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    return "\n" if len(bars) or os.isatty(2) else ""


def _handle(number, frame) -> None:
    first = _state.received is None
    if number == SIGTERM:
        _state.sigterm = True
        if not first:  # `uv run` and a process group may deliver it twice
            return
    _state.received = number
    if number == SIGTERM and _state.defers_sigterm:
        return
    if not (_state.raises and first) or _is_importing(frame):
        end(number)
    raise_error(number)


def _is_importing(frame) -> bool:
    """Whether a module is being imported: native ones may crash if that fails."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def raise_error(number: int):
    """Raise the exception of a signal; the process ends if the exception is dropped."""
    import weakref

    error = _ERRORS[signal.Signals(number)]()
    _state.raised = weakref.ref(error, lambda _: end(number))
    try:
        raise error
    finally:
        del error  # else its traceback, which refers to this frame, would keep it alive


def _unless_ending(hook):
    """A hook that reports an exception, but after a signal ends the process instead."""

    def report(*arguments) -> None:
        if _state.received is None:
            hook(*arguments)
            return
        kind = getattr(arguments[0], "exc_type", arguments[0])
        if isinstance(kind, type) and issubclass(kind, (Interrupted, Preempted)):
            end(_state.received)

    return report


def _watch(ours, _) -> None:
    import time

    number = 0
    while number not in _ERRORS:
        number = ours.recv(1)[0]
    if not _state.raises:
        end(number)
    if number == SIGINT:
        time.sleep(_PATIENCE)
        if _state.received is None:
            end(number)
        time.sleep(GRACE - _PATIENCE)
        end(number)
    time.sleep(GRACE)
    end(number, f"SIGTERM: forced to end, because {GRACE:g} s were not enough to save")
