"""manifest.json: the checksums of a run's files, by which damage and later changes are told."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from rgjax.storage import write_json

NAME = "manifest.json"


def write(folder: Path, names: Iterable[str]) -> None:
    """Write the size in bytes and the SHA-256 of those files in the folder that are there."""
    found = {name: _state(folder / name) for name in names if (folder / name).is_file()}
    write_json(folder / NAME, {"files": found})


def finished(folder: Path) -> bool:
    """Whether a run has ended there and all its files are as it left them."""
    return "result.json" in listed(folder) and not damages(folder)


def listed(folder: Path) -> set[str]:
    """The names in a folder's manifest; none where there is no sound one."""
    try:
        return set(_read(folder))
    except (OSError, ValueError):
        return set()


def damages(folder: Path, only: Iterable[str] = ()) -> dict[str, str]:
    """What is wrong with the files that the folder's manifest lists, or with `only` some of them: name -> reason. A
    damaged manifest is itself among them, a missing one is not."""
    try:
        files = _read(folder)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return {NAME: str(error)}
    wrong = {}
    for name in set(only) & set(files) if only else files:
        try:
            if _state(folder / name) != files[name]:
                wrong[name] = "checksum"
        except OSError as error:
            wrong[name] = error.strerror or str(error)
    return wrong


def _read(folder: Path) -> dict[str, dict]:
    """Raises OSError or ValueError."""
    content = json.loads((folder / NAME).read_text())
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(name == Path(name).name for name in files):
        raise ValueError("it is not what a run writes")
    return files


def _state(path: Path) -> dict[str, str | int]:
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
