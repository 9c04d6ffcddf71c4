"""manifest.json: the files of a run with their checksums, which tell damage to any of them, and later changes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rgjax.storage.files import write_json

NAME = "manifest.json"
RESULT = "result.json"


def write(folder: Path, names: Iterable[str]) -> None:
    """Write manifest.json over those of the files `names` (paths below `folder`) that exist."""
    present = [name for name in sorted(set(names)) if (folder / name).is_file()]
    write_json(folder / NAME, {"files": {name: _state(folder / name) for name in present}})


def finished(folder: Path) -> bool:
    """Whether a run has ended there and all its files are as it left them."""
    return _lists_result(folder) and not damages(folder)


def result(folder: Path) -> dict | None:
    """What a run has found; None while there is nothing, or what is there is damaged."""
    return json.loads((folder / RESULT).read_text()) if _lists_result(folder) and not damages(folder, RESULT) else None


def _lists_result(folder: Path) -> bool:
    try:
        return any(name == RESULT for name, _, _ in _read(folder))
    except (OSError, ValueError):
        return False


def damages(folder: Path, *only: str) -> dict[str, str]:
    """What of the folder's manifest does not hold, for all files or for `only` some: name -> reason, in one line. Empty
    where all is as it was written, or there is no manifest.

    It raises nothing, whatever the manifest holds: a malformed one is itself a damage.
    """
    try:
        listed = [file for file in _read(folder) if not only or file[0] in only]
    except FileNotFoundError:
        return {}
    except OSError as error:
        return {NAME: f"it cannot be read: {error.strerror}"}
    except ValueError as error:
        return {NAME: str(error)}
    return {name: damage for name, size, sha256 in listed if (damage := _damage(folder, name, size, sha256))}


def _read(folder: Path) -> list[tuple[str, int, str]]:
    """Raises OSError, and ValueError for what no run writes."""
    try:
        files = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        listed = [(str(name), int(file["bytes"]), str(file["sha256"])) for name, file in files.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"malformed: {type(error).__name__}") from error
    if not listed:
        raise ValueError("malformed: it lists no file")
    return listed


def _damage(folder: Path, name: str, size: int, sha256: str) -> str | None:
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return "it lies outside of the folder"
        if not path.is_file():  # a pipe would be waited for
            return "it is missing"
        if path.stat().st_size != size:
            return f"it has {path.stat().st_size} bytes, not {size}"
        if _state(path)["sha256"] != sha256:
            return "checksum"
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or a loop of links
        return f"it cannot be read: {' '.join(str(error).split())}"
    return None


def _state(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha256, "bytes": path.stat().st_size}
