"""Whole runs on the card: equal to the CPU's, and equal in their bits when repeated, compiled anew, or killed."""

import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.accelerator.figures import Figures

ROOT = Path(__file__).parents[2]
COMMON = (
    "--config=configs/digits.py:rg", "--config.trackers=", "--config.train.checkpoint_steps=5",
    "--config.train.eval_steps=10", "--config.train.steps_per_call=5",
)  # fmt: skip
TINY = ("--config.model.name=resnet10", "--config.model.width=8", "--config.data.image_size=16")
EXACT = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # float32 products without TF32


def runs(figures: Figures) -> None:
    """Runs share the card's memory, of which each takes a part."""
    with tempfile.TemporaryDirectory() as name:
        folder, steps = Path(name), 10 if figures.tiny else 60
        common = [*COMMON, f"--config.train.steps={steps}", *(TINY if figures.tiny else ())]

        # The first run, one with nothing compiled or tuned before, and one that is killed and resumed.
        first, fresh = _start(folder, "first", "cache", common), _start(folder, "fresh", "other-cache", common)
        _finish(first, fresh)
        killed = _start(folder, "killed", "cache", common)
        _wait_for_checkpoint(killed, folder / "killed")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        again, resumed = _start(folder, "again", "cache", common), _start(folder, "killed", "cache", common)
        _finish(again, resumed)
        for case, other in (("again", "again"), ("compiled anew", "fresh"), ("killed and resumed", "killed")):
            paths = [folder / run / "predictions.npz" for run in ("first", other)]
            figures.add(case, same_bits=filecmp.cmp(*paths, shallow=False), largest_difference=_difference(*paths))

        # In float32 the card's logits are the CPU's up to rounding.
        few = [*common, "--config.train.steps=5", "--config.model.dtype=float32"]
        card = _start(folder, "card", "cache", few, EXACT)
        _finish(card, _start(folder, "cpu", "cache", few, EXACT | {"JAX_PLATFORMS": "cpu"}))
        difference = _difference(folder / "card" / "predictions.npz", folder / "cpu" / "predictions.npz")
        figures.add("against the CPU, 5 steps", largest_difference=difference, equals_reference=difference < 1e-2)


def _start(folder: Path, run: str, cache: str, words: list[str], environment: dict[str, str] | None = None) -> Any:
    settings = {"RGJAX_CACHE": str(folder / cache), "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3", **(environment or {})}
    with open(folder / f"{run}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rgjax.main", *words, f"--workdir={folder / run}"],
            cwd=ROOT, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        if code := process.wait():
            raise RuntimeError(f"a run ended with code {code}: {' '.join(map(str, process.args))}")


def _wait_for_checkpoint(process: subprocess.Popen, workdir: Path) -> None:
    while process.poll() is None and not any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*")):
        time.sleep(0.01)


def _difference(one: Path, other: Path) -> float:
    """The largest difference of two logits, in standard deviations of the logits."""
    with np.load(one) as a, np.load(other) as b:
        return max(float(np.abs(a[name] - b[name]).max() / a[name].std()) for name in ("val_logits", "test_logits"))
