"""Atomic file writes, content-addressed caches and locks of run directories."""

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from rgjax.console import local_path
from rgjax.errors import UserError

_log = logging.getLogger(__name__)
_OTHER_CACHE = "set RGJAX_CACHE to a folder with space that can be written"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` if the block succeeds.

    No reader ever sees half a file, even if the process or the machine stops. Raises UserError if the folder cannot be
    written.
    """
    temporary = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
        _sync(path.parent)  # else a power failure may undo the renaming
    except OSError as error:
        name = str(path.parent if error.filename is None else error.filename)
        if not (name.startswith(str(path.parent)) or Path(name) in path.parents):
            raise
        reason = error.strerror or f"the disk may be full ({error})"
        fix = f"fix this, or {_OTHER_CACHE}," if _is_cached(path) else "fix this"
        raise UserError(f"{path}: cannot be written: {reason}; {fix} and rerun the same command to resume") from error
    finally:
        if temporary != path:
            temporary.unlink(missing_ok=True)


def _is_cached(path: Path) -> bool:
    with contextlib.suppress(UserError):
        return cache_dir() in path.parents
    return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON: None stands for an undefined number, NaN raises ValueError."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises ValueError, with a reason of one line, if the file holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays that `read_npz` checks for completeness."""
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
        with zipfile.ZipFile(temporary, "a") as file:
            file.comment = _complete(len(arrays))


def _complete(arrays: int) -> bytes:
    """A comment that reveals a missing array, as ZIP's directory has no checksum."""
    return f"{arrays} arrays".encode()


def digest(*parts: str | bytes | np.ndarray | int | float | None) -> str:
    """A short hexadecimal SHA-256 over the parts, their types and their lengths."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = f"array:{part.dtype.str}{part.shape}", part.reshape(-1).view(np.uint8).data  # no copy
        elif isinstance(part, bytes):
            head, body = f"bytes:{len(part)}", part
        else:
            body = repr(part).encode()
            head = f"value:{len(body)}"
        sha.update(head.encode())
        sha.update(body)
    return sha.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file; None if it is missing, or corrupted and set aside.

    ZIP's checksums cover every array; they are compared before the headers of the arrays are parsed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if name := file.zip.testzip():
                raise ValueError(f"checksum of {name}")
            if file.zip.comment not in (b"", _complete(len(file.files))):
                raise ValueError("arrays are missing")
            return dict(file)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        if os.path.exists(path):  # without an error for a folder that cannot be entered
            raise
        return None
    except Exception as error:  # a corrupted archive fails in many ways
        set_aside(path, error)
        return None


def set_aside(path: Path, reason: object) -> None:
    """Rename a corrupted file or folder to NAME.damaged, with a warning."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in count())
    kept = next(name for name in names if not name.exists())
    os.replace(path, kept)
    _log.warning(f"{path} is corrupted ({reason}); moved to {kept.name} and recomputed")


def cached_arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in a cached .npz file; computed and stored if it is missing.

    The name of the file identifies its content. If several processes ask at the same time, one computes and the others
    wait. If the disk is full or the folder cannot be written, the arrays are returned without being stored.
    """
    if (arrays := read_npz(path)) is not None:
        return arrays
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        except OSError as error:
            _log.warning(f"not cached: {path.parent}: {error.strerror}; {_OTHER_CACHE}")
            return compute()
        if (arrays := read_npz(path)) is not None:
            return arrays
        arrays = compute()
        try:
            write_npz(path, **arrays)
        except UserError as error:
            _log.warning(f"not cached: {error}")
        return arrays


@contextlib.contextmanager
def lock_run_dir(folder: Path, *, blocking: bool = False) -> Iterator[None]:
    """Hold the exclusive lock of a run directory.

    The operating system releases the lock when the process ends; holder.json tells other processes who holds it.

    Args:
        folder: the directory, made if it does not exist.
        blocking: wait for the lock instead of raising.

    Raises:
        UserError: if another process holds the lock.
    """
    record = folder / "holder.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=-1 if blocking else 0)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder}: locked by {_holder(record)}; wait for it to finish, or use another --workdir"
        ) from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be used: {error.strerror or error}") from error
    try:
        if record.exists():
            _log.warning(f"{folder}: resuming the run of {_holder(record)}, which was killed")
        write_json(record, {"host": platform.node(), "process": os.getpid()})
        yield
    finally:
        record.unlink(missing_ok=True)
        lock.release()


def _holder(record: Path) -> str:
    try:
        holder = read_json_object(record)
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def newest_step(checkpoints: Path) -> int:
    """The step of a folder's newest checkpoint, or 0; found without JAX and Orbax."""
    return max((int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), default=0)


def cache_dir() -> Path:
    """The folder of all caches: $RGJAX_CACHE, or `rgjax` in the user's cache.

    Raises UserError if the user has no home.
    """
    if root := os.environ.get("RGJAX_CACHE"):
        return local_path(root)
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # By the specification of XDG, a relative path is ignored.
        return (root if root.is_absolute() else Path.home() / ".cache") / "rgjax"
    except RuntimeError as error:
        raise UserError("HOME: not set, and the user is unknown; set RGJAX_CACHE to a folder for caches") from error
