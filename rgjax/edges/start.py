"""Guards a command from its first import on.

`rgjax/__init__.py` imports this before anything else.
Where rgjax is used as a library, signals and streams stay as they are.
"""

import os
import sys

from rgjax.edges import signals, streams

SCRIPTS = {f"rgjax-{name}" for name in ("train", "sweep", "report", "preflight", "predict", "inspect")}


def is_command() -> bool:
    """Whether the process is `python -m rgjax.NAME` or one of the installed SCRIPTS."""
    if not sys.argv or len(sys.argv) > len(sys.orig_argv):
        return False
    word = sys.orig_argv[-len(sys.argv)]  # the interpreter's words end with the program and its arguments
    if sys.argv[0] == "-m":  # as long as Python looks for the module
        return word.removeprefix("-m").startswith("rgjax.")
    return word == sys.argv[0] and os.path.basename(word) in SCRIPTS


def guard_command() -> None:
    """Guard this process, which is a command, against signals and its streams."""
    signals.guard()
    streams.repair()
    signals.watch()


if is_command():
    guard_command()
