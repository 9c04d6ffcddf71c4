"""What a figure depends on beside the code: processor, versions, settings, and how fast products are right now."""

import os
import platform
import subprocess
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "scikit-learn", "faiss-cpu")


def describe() -> dict[str, object]:
    settings = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        "git": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in settings if name in os.environ},
        "openmp": "default waiting; a pause before each measurement",
    }


def default_waiting() -> None:
    """Leave OpenMP's waiting at its default: a short spin, then sleep.

    Threads that spin without end take a core from XLA (its step takes 1.5 times as long beside an idle torch), and
    threads that never spin slow torch down (1.2 times). To be called before any library starts OpenMP.
    """
    for name in SPINNING:
        os.environ.pop(name, None)


def torch_is_ready() -> bool:
    """Whether torch is installed; if so, it uses all cores from now on."""
    if find_spec("torch") is None:
        return False
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    return True


def matmul_peak(size: int = 2048, repeats: int = 6) -> float:
    """GFLOP/s of the fastest of some float32 matrix products: the roof for everything else at this moment."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    x = jnp.ones((size, size), jnp.float32)
    jax.block_until_ready(product(x, x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
