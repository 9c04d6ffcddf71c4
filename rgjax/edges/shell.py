"""Commands as lines of a shell, for the user to run next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from rgjax.edges.hold import SCRIPTS


def shell_line(command: str, *words: str) -> str:
    """The line of a shell that calls a command as this process was called.

    Args:
        command: the module of the command below `rgjax`, such as "main".
        words: its arguments, which are quoted.
    """
    script = "rgjax-" + {"main": "train", "data.inspect": "inspect", "encoders": "encode"}.get(command, command)
    program = Path(sys.argv[0])
    if program.name in SCRIPTS:
        on_path = shutil.which(program.name) == str(program)
        return shlex.join([script if on_path else str(program.with_name(script)), *words])
    python = ["uv", "run", "python"] if "UV" in os.environ else [sys.orig_argv[0]]  # `uv run` sets UV
    return shlex.join([*python, "-m", f"rgjax.{command}", *words])
