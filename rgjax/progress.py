"""Progress bars that suit a terminal and do not flood a log file."""

import sys

import jax
from tqdm import tqdm


def progress(steps=None, what: str = "", total: int | None = None, *, unit: str, done: int = 0) -> tqdm:
    """A bar named `what` over the iterable `steps`, or one to be moved by its `update`; `done` of `total` lie behind.

    On a terminal it moves every second; elsewhere it leaves a line every ten. Of several processes the first has it.
    """
    pause = 1.0 if sys.stderr.isatty() else 10.0
    silent = jax.process_index() > 0
    return tqdm(steps, what, total, unit=unit, initial=done, mininterval=pause, maxinterval=pause, disable=silent)
