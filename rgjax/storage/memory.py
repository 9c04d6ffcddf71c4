"""Keeps what many runs of a process read: data sets, features."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

_kept: dict[str, tuple[Any, Any]] = {}  # kind -> key and value, the newest of each kind
_depth = 0


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Within the block, `kept` keeps values; files must not change meanwhile."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _kept.clear()


def kept(kind: str, key: Any, compute: Callable[[], Any]) -> Any:
    """The value of `compute`, or the same object again for an equal key."""
    if not _depth:
        return compute()
    if kind not in _kept or _kept[kind][0] != key:
        _kept.pop(kind, None)  # two data sets may not fit into memory
        _kept[kind] = key, compute()
    return _kept[kind][1]
