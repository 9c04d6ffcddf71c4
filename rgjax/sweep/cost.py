"""What a sweep will take, by a short run of each study."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rgjax.errors import UserError
from rgjax.storage.files import write_json
from rgjax.sweep.launchers import Local, Place
from rgjax.sweep.plan import Run
from rgjax.sweep.worker import failure

_STEPS = 20


class Cost(NamedTuple):
    """Of one run: seconds on one worker of this machine, and bytes on disk with and without its checkpoint."""

    seconds: float
    bytes: int
    bytes_without_checkpoint: int


def measure(run: Run, place: Place) -> Cost:
    """Train a few steps of a run, and reckon what all of it takes. Raises UserError where it fails.

    It runs twice in the same worker, for most runs of a sweep find their program compiled.
    """
    config = run.config.copy_and_resolve_references()
    config.train.steps = min(_STEPS, config.train.steps or _STEPS)
    with tempfile.TemporaryDirectory() as name:
        workdirs = [Path(name) / "first", Path(name) / "second"]
        launcher = Local(Path(name), [place])
        try:
            for workdir in workdirs:
                write_json(workdir / "config.json", json.loads(config.to_json()))
                launcher.submit([[str(workdir)]])[0].result()
                if not (workdir / "result.json").exists():
                    raise UserError(failure(workdir)["error"])
        finally:
            launcher.close()
        result = json.loads((workdirs[1] / "result.json").read_text())
        sizes = {path: path.stat().st_size for path in workdirs[1].rglob("*") if path.is_file()}
    rows, train, timing = sum(result["train_counts"].values()), run.config.train, result["timing"]
    examples = (train.steps or train.epochs * (rows // train.batch_size)) * train.batch_size
    seconds = timing["total_s"] - timing["train_s"] + examples / timing["examples_per_s"]
    kept = sum(size for path, size in sizes.items() if "checkpoints" not in path.parts)
    return Cost(seconds, sum(sizes.values()), kept)


def readable_cost(runs: Sequence[Run], keep: Sequence[bool], places: Sequence[Place]) -> str:
    """One line for each study of `runs`: a run's time by measurement, all runs' device hours, hours on the workers of
    this machine, and disk space; `keep` says of each run whether its checkpoint stays."""
    workers = len(places)
    lines = [f"\n{'study':<20}{'runs':>6}{'s a run':>10}{'device h':>10}{f'h by {workers}':>10}{'disk GB':>9}"]
    for study in dict.fromkeys(run.group.study for run in runs):
        own = [(run, stays) for run, stays in zip(runs, keep, strict=True) if run.group.study == study]
        typical = next((run for run, _ in own if run.group.method == "rg"), own[0][0])
        try:
            cost = measure(typical, places[0])
        except UserError as error:
            lines.append(f"{study:<20}{len(own):>6}  unknown: {error}")
            continue
        hours = len(own) * cost.seconds / 3600
        space = sum(cost.bytes if stays else cost.bytes_without_checkpoint for _, stays in own) / 1e9
        lines.append(
            f"{study:<20}{len(own):>6}{cost.seconds:>10.1f}{hours:>10.3g}{hours / workers:>10.3g}{space:>9.3g}"
        )
    lines.append(f"measured by {_STEPS} steps of a run on one worker of this machine")
    return "\n".join(lines)
