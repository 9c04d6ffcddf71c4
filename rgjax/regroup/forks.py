"""Refuse JAX in a process that was forked from one in which JAX was running.

JAX's threads are not in the new process, which would wait for them forever.
"""

import os

from jax._src.xla_bridge import backends_are_initialized  # there is no public name for it

_inherited = False  # whether JAX was running before the fork


def _after_fork() -> None:
    global _inherited
    _inherited = backends_are_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def require_unforked() -> None:
    """Raise RuntimeError in a process that was forked after JAX started."""
    if _inherited:
        raise RuntimeError(
            "K-means cannot run in a process that was forked after JAX started; start processes by spawn or "
            "forkserver, or joblib's backend loky"
        )
