"""manifest.json lists a run's files with their checksums, to detect changes."""

import json
from collections.abc import Iterable
from pathlib import Path

from rgjax.storage.files import file_sha256, read_json_object, write_json

NAME = "manifest.json"
RESULT = "result.json"


def write(folder: Path, names: Iterable[str]) -> None:
    """Write manifest.json for those of the files `names` in `folder` that exist."""
    paths = {name: folder / name for name in sorted(set(names)) if (folder / name).is_file()}
    files = {name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for name, path in paths.items()}
    write_json(folder / NAME, {"files": files})


def finished(folder: Path) -> bool:
    """Whether a run ended in the folder and all its files are unchanged."""
    return _lists_result(folder) and not damages(folder)


def result(folder: Path) -> dict | None:
    """The content of result.json; None for an unfinished run or a corrupted file."""
    if not _lists_result(folder) or damages(folder, RESULT):
        return None
    return json.loads((folder / RESULT).read_text())


def _lists_result(folder: Path) -> bool:
    try:
        return any(name == RESULT for name, _, _ in _read(folder))
    except (OSError, ValueError):
        return False


def damages(folder: Path, *only: str) -> dict[str, str]:
    """The files that differ from the folder's manifest: name -> reason, in one line.

    Args:
        folder: of a run; without a manifest nothing differs.
        only: the names to compare; all if none is given.

    Returns:
        The differences. A malformed manifest is itself one of them: its content never raises an error.
    """
    try:
        files = [file for file in _read(folder) if not only or file[0] in only]
    except FileNotFoundError:
        return {}
    except OSError as error:
        return {NAME: f"it cannot be read: {error.strerror}"}
    except ValueError as error:
        return {NAME: str(error)}
    return {name: damage for name, size, sha256 in files if (damage := _damage(folder, name, size, sha256))}


def _read(folder: Path) -> list[tuple[str, int, str]]:
    """Name, size and SHA-256 of each file.

    Raises OSError, or ValueError for a malformed manifest.
    """
    try:
        files = read_json_object(folder / NAME)["files"]
        listed = [(str(name), int(file["bytes"]), str(file["sha256"])) for name, file in files.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"malformed: {type(error).__name__}") from error
    if not listed:
        raise ValueError("malformed: it lists no files")
    return listed


def _damage(folder: Path, name: str, size: int, sha256: str) -> str | None:
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return "it lies outside of the folder"
        if not path.is_file():  # a pipe would block
            return "it is missing"
        if path.stat().st_size != size:
            return f"it has {path.stat().st_size} bytes, not {size}"
        if file_sha256(path) != sha256:
            return "checksum"
    except (OSError, ValueError, RuntimeError) as error:  # an invalid file name, or a loop of links
        return f"it cannot be read: {' '.join(str(error).split())}"
    return None
