"""provenance.json records the code, versions, devices and inputs of a run."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from rgjax.errors import UserError
from rgjax.storage.files import read_json_object, set_aside, write_json

_PACKAGES = ("rgjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "pillow")


def write(
    path: Path,
    config: dict[str, Any],
    fingerprints: dict[str, str],
    notes: Sequence[dict],
    *,
    choices: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the provenance of this process and its inputs, with a copy of the config.

    Args:
        path: of provenance.json.
        config: the settings of the run.
        fingerprints: input -> the fingerprint of its content.
        notes: what was skipped or changed while the data were read, ready for JSON.
        choices: what `auto` in the config meant, by the names of fields, and the encoder.

    Raises:
        UserError: if the run began with other inputs, because it cannot resume with these.
    """
    if path.exists():
        try:
            before = dict(read_json_object(path)["fingerprints"])
        except (ValueError, TypeError, KeyError) as error:
            set_aside(path, error)
            before = fingerprints
        if changed := [name for name, value in fingerprints.items() if before.get(name) != value]:
            raise UserError(
                f"--workdir={path.parent}: its run began with different {' and '.join(changed)}; use another --workdir"
            )
    write_json(
        path,
        {
            "git": _git_state(),
            "python": platform.python_version(),
            "packages": _versions(),
            "platform": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "fingerprints": fingerprints,
            "notes": list(notes),
            **choices,
            "config": config,
        },
    )


def read(folder: Path) -> dict[str, Any]:
    """The provenance of a run; empty if it is missing or corrupted."""
    try:
        return read_json_object(folder / "provenance.json")
    except (OSError, ValueError):
        return {}


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


@cache  # the code that runs is what was loaded
def _git_state() -> dict[str, str | bool] | None:
    """The checkout's commit and whether files differ from it; None without one."""

    def git(*command: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
