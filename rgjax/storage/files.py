"""Files that are whole or absent, and caches keyed by content."""

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

from rgjax.errors import UserError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well: no reader sees half a file, whenever the
    process or the machine stops. Raises UserError where the folder cannot be written."""
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
        _sync(path.parent)  # else the name may be lost with the machine's power
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        reason = error.strerror or f"the disk may be full: {error}"
        way_out = "mend that"
        if cache_dir() in path.parents:
            way_out += ", or name a folder with more space by RGJAX_CACHE=FOLDER"
        raise UserError(f"{path} cannot be written: {reason}; {way_out}, and the same command goes on") from error
    finally:
        if temporary != path:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN: callers turn an undefined figure into None)."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, with a reason of one line, for a file that holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
        with zipfile.ZipFile(temporary, "a") as file:
            file.comment = _complete(len(arrays))


def _complete(arrays: int) -> bytes:
    """ZIP's directory has no checksum: one that has lost an entry is told by this comment."""
    return f"{arrays} arrays".encode()


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


def read_npz(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file; None where there is none, or a damaged one, which is set aside.

    ZIP's checksums cover every array; they are compared before anything is believed that the arrays' headers say.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if name := file.zip.testzip():
                raise ValueError(f"checksum of {name}")
            if file.zip.comment not in (b"", _complete(len(file.files))):
                raise ValueError("arrays are missing")
            return dict(file)
    except (FileNotFoundError, PermissionError):
        if path.exists():
            raise
        return None
    except Exception as error:  # a damaged archive fails in many ways
        set_aside(path, error)
        return None


def set_aside(path: Path, why: object) -> None:
    """Rename a damaged file or folder, so that it is made anew, and say so in one line."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in count())
    kept = next(name for name in names if not name.exists())
    os.replace(path, kept)
    _log.warning(f"{path} is damaged ({why}): it is now {kept.name}, and made anew")


def cached_arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays stored at `path` (.npz), computed and stored if they are not there. Name `path` by content.

    Of several processes that ask at once one computes, and the others wait for it. What cannot be stored, because the
    disk is full, is not lost to this process.
    """
    if (found := read_npz(path)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if (found := read_npz(path)) is not None:
            return found
        arrays = compute()
        try:
            write_npz(path, **arrays)
        except UserError as error:
            _log.warning(f"{error}; it is not kept")
        return arrays


@contextlib.contextmanager
def lock_run_dir(folder: Path, *, blocking: bool = False) -> Iterator[None]:
    """A folder that no other process has in hand. The lock is the operating system's and ends with the process;
    holder.json beside it says who that is.

    Raises UserError, naming the other's host and process, where it is taken and this one is not to wait.
    """
    record = folder / "holder.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=-1 if blocking else 0)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder} is in the hands of {_holder(record)}: wait until it ends, or use another --workdir"
        ) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be used: {error.strerror or error}") from error
    try:
        if record.exists():
            _log.warning(f"{folder} was left behind by {_holder(record)}, which was killed: resuming")
        write_json(record, {"host": platform.node(), "process": os.getpid()})
        yield
    finally:
        record.unlink(missing_ok=True)
        lock.release()


def _holder(record: Path) -> str:
    try:
        known = json.loads(record.read_text())
        return f"process {known['process']} on {known['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def newest_step(checkpoints: Path) -> int:
    """The step of the newest checkpoint in a folder, 0 if there is none. It needs neither JAX nor Orbax."""
    return max((int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), default=0)


def cache_dir() -> Path:
    """Where decoded images, features and compiled programs are kept: $RGJAX_CACHE, else the user's cache folder."""
    if root := os.environ.get("RGJAX_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rgjax"
