"""Holds the signals of a command back until `rgjax.edges.signals` is imported.

`signal` itself takes milliseconds to import, for its enums; its part in C is there at once.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys

SCRIPTS = {f"rgjax-{name}" for name in ("train", "sweep", "report", "preflight", "predict", "inspect", "encode")}


def is_command() -> bool:
    """Whether the process is `python -m rgjax.NAME` or one of the installed SCRIPTS."""
    if not sys.argv or len(sys.argv) > len(sys.orig_argv):
        return False
    word = sys.orig_argv[-len(sys.argv)]  # the interpreter's words end with the program and its arguments
    if sys.argv[0] == "-m":  # as long as Python looks for the module
        return word.removeprefix("-m").startswith("rgjax.")
    return word == sys.argv[0] and os.path.basename(word) in SCRIPTS


def hold(holds: bool) -> None:
    """Hold SIGINT and SIGTERM back, or let those through that have arrived."""
    if hasattr(_signal, "pthread_sigmask"):  # not on Windows
        how = _signal.SIG_BLOCK if holds else _signal.SIG_UNBLOCK
        _signal.pthread_sigmask(how, {_signal.SIGINT, _signal.SIGTERM})


if is_command():
    hold(True)
