"""Files that are whole or absent, and caches keyed by content."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from rgjax.errors import UserError


def local(name: str) -> Path:
    """The path that a user means by `name`, `~` and all. Raises UserError for an address of an object store."""
    if "://" in name:
        raise UserError(f"{name} is no folder: mount the object store (gcsfuse, rclone mount) and give its folder")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~someone who is not known here
        return Path(name)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well: no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN: callers turn an undefined figure into None)."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def digest(*parts: str | bytes | np.ndarray | int | float | None) -> str:
    """A short hexadecimal SHA-256 over the parts, their types and their lengths."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = (
                f"array:{part.dtype.str}{part.shape}",
                part.tobytes(),
            )
        elif isinstance(part, bytes):
            head, body = f"bytes:{len(part)}", part
        else:
            body = repr(part).encode()
            head = f"value:{len(body)}"
        sha.update(head.encode())
        sha.update(body)
    return sha.hexdigest()[:16]


def cached_arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays stored at `path` (.npz), computed and stored if they are not there. Name `path` by content.

    Of several processes that ask at once one computes, and the others wait for it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                arrays = compute()
                write_npz(path, **arrays)
                return arrays
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def cache_dir() -> Path:
    """Where decoded images, features and compiled programs are kept: $RGJAX_CACHE, else the user's cache folder."""
    if root := os.environ.get("RGJAX_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rgjax"
