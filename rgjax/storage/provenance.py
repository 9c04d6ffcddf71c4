"""Where a run comes from: code, versions, devices and the fingerprints of what went in."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from rgjax.errors import UserError
from rgjax.storage.files import set_aside, write_json

_PACKAGES = ("rgjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "pillow")


def write(path: Path, config: dict[str, Any], **fingerprints: str) -> None:
    """Write the provenance of this process and of its inputs, named by `fingerprints`, with a copy of the config.

    Raises UserError where the run was begun with other inputs, as it could not go on with these.
    """
    if path.exists():
        try:
            before = dict(json.loads(path.read_text())["fingerprints"])
        except (ValueError, TypeError, KeyError) as error:
            set_aside(path, error)
            before = fingerprints
        changed = [name for name, value in fingerprints.items() if before.get(name) != value]
        if changed:
            raise UserError(f"{path.parent} was begun with another {' and '.join(changed)}: use another --workdir")
    write_json(
        path,
        {
            "git": _git_state(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
            "platform": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "fingerprints": fingerprints,
            "config": config,
        },
    )


def _git_state() -> dict[str, str | bool] | None:
    def git(*command: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
