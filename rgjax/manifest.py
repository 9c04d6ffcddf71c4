"""The list of a finished run's files with their checksums, by which damage to any of them is found."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rgjax.storage import write_json

NAME = "manifest.json"


def write(folder: Path, names: Iterable[str]) -> None:
    """Write manifest.json over those of the files `names` (paths below `folder`) that exist."""
    present = [name for name in sorted(set(names)) if (folder / name).is_file()]
    write_json(folder / NAME, {"files": {name: _state(folder / name) for name in present}})


def damages(folder: Path) -> list[str]:
    """What of the manifest does not hold, a line each; empty where every listed file is as it was written.

    It raises nothing, whatever the manifest holds: an absent or malformed one is itself a damage.
    """
    try:
        files = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        listed = [(str(name), int(file["bytes"]), str(file["sha256"])) for name, file in files.items()]
    except FileNotFoundError:
        return [f"there is no {NAME}"]
    except OSError as error:
        return [f"{NAME} cannot be read: {error.strerror}"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return [f"{NAME} is malformed: {type(error).__name__}"]
    if not listed:
        return [f"{NAME} is malformed: it lists no file"]
    return [damage for file in listed if (damage := _damage(folder, *file))]


def _damage(folder: Path, name: str, size: int, sha256: str) -> str | None:
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return f"{NAME} names {name!r}, which is outside of the folder"
        if not path.is_file():  # a pipe would be waited for
            return f"{name!r} is missing"
        if path.stat().st_size != size:
            return f"{name!r} has {path.stat().st_size} bytes, not the {size} of {NAME}"
        if _state(path)["sha256"] != sha256:
            return f"{name!r} has another checksum than in {NAME}"
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or a loop of links
        return f"{name!r} cannot be read: {' '.join(str(error).split())}"
    return None


def _state(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha256, "bytes": path.stat().st_size}
