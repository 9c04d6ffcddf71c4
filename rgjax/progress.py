"""Progress bars that suit a terminal and do not flood a log file."""

import sys

from tqdm import tqdm


def progress(steps=None, what: str = "", total: int | None = None, *, unit: str, done: int = 0) -> tqdm:
    """A bar named `what` over the iterable `steps`, or one to be moved by its `update`; `done` of `total` lie behind.

    On a terminal it moves every second; elsewhere it leaves a line every ten. Of several processes the first has it.
    """
    pause = 1.0 if sys.stderr.isatty() else 10.0
    jax = sys.modules.get("jax")  # a process that has not imported it is alone
    silent = jax is not None and jax.process_index() > 0
    return tqdm(steps, what, total, unit=unit, initial=done, mininterval=pause, maxinterval=pause, disable=silent)
