"""The cost of a sweep, estimated from a short run of each study."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rgjax.console import table
from rgjax.errors import UserError
from rgjax.storage.files import write_json
from rgjax.sweep.launchers import Local, Slot
from rgjax.sweep.plan import RunSpec
from rgjax.sweep.worker import read_failure

_STEPS = 20


class Cost(NamedTuple):
    """The cost of a run: seconds on one worker of this machine, bytes on disk."""

    seconds: float
    bytes: int
    bytes_without_checkpoints: int


def measure(run: RunSpec, slot: Slot) -> Cost:
    """Train a few steps of a run and extrapolate to all its steps.

    The same worker trains it twice and measures the second time, because most runs of a sweep find their program
    compiled. Raises UserError if the run fails.
    """
    config = run.config.copy_and_resolve_references()
    config.train.steps = min(_STEPS, config.train.steps or _STEPS)
    with tempfile.TemporaryDirectory() as name:
        workdirs = [Path(name) / "first", Path(name) / "second"]
        launcher = Local(Path(name), [slot])
        try:
            for workdir in workdirs:
                write_json(workdir / "config.json", json.loads(config.to_json()))
                launcher.submit([[str(workdir)]])[0].result()
                if not (workdir / "result.json").exists():
                    raise UserError(read_failure(workdir)["error"])
        finally:
            launcher.close()
        result = json.loads((workdirs[1] / "result.json").read_text())
        sizes = {path: path.stat().st_size for path in workdirs[1].rglob("*") if path.is_file()}

    # The time before and after training, plus the time of all steps at the measured speed.
    train, timing = run.config.train, result["timing"]
    steps = train.steps or train.epochs * (sum(result["train_counts"].values()) // train.batch_size)
    seconds = timing["total_s"] - timing["train_s"] + steps * train.batch_size / timing["examples_per_s"]
    without = sum(size for path, size in sizes.items() if "checkpoints" not in path.parts)
    return Cost(seconds, sum(sizes.values()), without)


def cost_table(runs: Sequence[RunSpec], keeps: Callable[[RunSpec], bool], slots: Sequence[Slot]) -> str:
    """A row per study: seconds per run, device hours, wall-clock hours, disk space.

    Args:
        runs: all runs of the sweep.
        keeps: whether to keep a run's checkpoints.
        slots: the workers of this machine.
    """
    workers = len(slots)
    notes = [f"measured with {_STEPS} steps of a run on one worker of this machine"]
    rows: list[Sequence[str]] = [("study", "runs", "s per run", "device h", f"h on {workers}", "disk GB")]
    for study in dict.fromkeys(run.variant.study for run in runs):
        of_study = [run for run in runs if run.variant.study == study]
        typical = next((run for run in of_study if run.variant.method == "rg"), of_study[0])
        try:
            cost = measure(typical, slots[0])
        except UserError as error:
            rows.append((study, f"{len(of_study)}", "unknown"))
            notes.append(f"{study}: {error}")
            continue
        hours = len(of_study) * cost.seconds / 3600
        space = sum(cost.bytes if keeps(run) else cost.bytes_without_checkpoints for run in of_study) / 1e9
        numbers = (f"{cost.seconds:.1f}", f"{hours:.3g}", f"{hours / workers:.3g}", f"{space:.3g}")
        rows.append((study, f"{len(of_study)}", *numbers))
    return "\n".join([table(rows, "<>>>>>", indent=""), *notes])
