"""Where a run comes from: code, versions, devices and the fingerprints of what went in."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax

from rgjax.storage import write_json

_PACKAGES = ("rgjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "pillow")


def write(path: Path, **fingerprints: str) -> None:
    """Write the provenance of this process and of its inputs, named by `fingerprints`."""
    write_json(
        path,
        {
            "git": _git_state(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
            "platform": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "fingerprints": fingerprints,
        },
    )


def _git_state() -> dict[str, str | bool] | None:
    def git(*command: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(
            ["git", *command], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
