"""Train and judge one method on one data set.

    python -m rgjax.main --config=configs/FILE.py[:METHOD] [--config.NAME=VALUE ...] [--workdir=DIR]

The same command goes on with an interrupted run, and prints the result of a finished one.
Without --workdir the run goes to runs/DATASET-METHOD-HASH; with --config.population=N the runs of N seeds go to folders
seed-S in it.

--distributed makes the same command on several hosts, which share the workdir, one run. Slurm, Open MPI, Kubernetes and
TPU pods tell the hosts of each other; elsewhere --coordinator=HOST:PORT --processes=N --process=I, from 0, does.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from rgjax import config as settings
from rgjax import data, experiment, manifest
from rgjax.command import CONFIG, run
from rgjax.config import Config
from rgjax.devices import is_first_process
from rgjax.errors import UserError, first_line, tell
from rgjax.storage import cache_dir, digest, held, local
from rgjax.trainer import Trial

_WORKDIR = flags.DEFINE_string("workdir", "", "where the run is kept")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one run of several processes")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process")
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes there are", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "which of them this is, from 0", lower_bound=0)

_MISSED = 30  # seconds without a sign of life of another process, after which a run ends


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax tells its settings, and errors that are raised as well, at length
    config = CONFIG.value
    settings.validate(config)
    connect()
    workdir = local(_WORKDIR.value) if _WORKDIR.value else default_workdir(config)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    trials = members(config, workdir)
    with contextlib.ExitStack() as hands:
        for folder, own in ({workdir: config} | {trial.workdir: trial.config for trial in trials}).items():
            if is_first_process() and not manifest.finished(folder):
                hands.enter_context(held(folder))
            refuse_another(folder, own)
        results = together(lambda: experiment.run_population(trials, say))
    if is_first_process():
        print(readable(results[0]) if len(results) == 1 else readable_population(results))
        print(f"\nall files: {workdir}")


def say(text: str) -> None:
    if is_first_process():
        print(text, file=sys.stderr)


def connect() -> None:
    """Find the other processes of the run. Raises UserError where that fails."""
    named = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if not _DISTRIBUTED.value:
        if named != (None, None, None):
            raise UserError("--coordinator, --processes and --process go with --distributed")
        return
    # It would keep SIGTERM to itself; ours is asked for at every call of the devices.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*named, heartbeat_timeout_seconds=_MISSED, shutdown_timeout_seconds=_MISSED)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {first_line(error)}: give --coordinator=HOST:PORT --processes=N --process=0..N-1"
        ) from error


def together(run: Callable[[], list[dict]]) -> list[dict]:
    """The results of `run`. Of a run of several processes, one that loses another ends, and does not wait for it."""
    try:
        return run()
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        tell(
            f"another process of this run has ended, or is out of reach ({first_line(error)}): start all of "
            "them again, and they go on from the last checkpoint"
        )
        sys.stdout.flush()
        os._exit(1)  # to leave in peace, JAX would wait for the other


def members(config: Config, workdir: Path) -> list[Trial]:
    """The runs that the config asks for: itself, or as many seeds as its population has."""
    if config.population == 1:
        return [Trial(config, workdir)]
    found = []
    for seed in range(config.seed, config.seed + config.population):
        member = config.copy_and_resolve_references()
        member.update({"seed": seed, "population": 1})
        found.append(Trial(member, workdir / f"seed-{seed}"))
    return found


def default_workdir(config: Config) -> Path:
    dataset = data.called(config.data.name, config.data.manual_dir)
    name = "_".join(filter(None, (dataset, config.data.positive))).replace("/", "_")
    return Path("runs") / f"{name}-{config.method}-{digest(json.dumps(settings.identity(config)))[:8]}"


def refuse_another(workdir: Path, config: Config) -> None:
    """Raise UserError for a workdir where a run with other settings has begun."""
    ours, theirs = settings.identity(config), begun(workdir)
    if theirs and (name := next((name for name in ours if ours[name] != theirs[name]), None)):
        raise UserError(
            f"{workdir} holds a run with config.{name}={theirs[name]!r}, not {ours[name]!r}: use another --workdir"
        )


def begun(workdir: Path) -> dict[str, Any] | None:
    """The identity of the run that has begun in a workdir: config.json tells it, and provenance.json should that be
    damaged. Raises UserError where both are."""
    provenance = workdir / "provenance.json"
    try:
        if not provenance.exists():
            return None
        damaged = manifest.damages(workdir)
        for path, field in ((workdir / "config.json", None), (provenance, "config")):
            if path.name in damaged:
                continue
            with contextlib.suppress(
                FileNotFoundError, ValueError, TypeError, AttributeError, KeyError, RecursionError
            ):
                content = json.loads(path.read_text())
                return settings.identity(settings.recorded_config(content[field] if field else content))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error.strerror}") from error
    raise UserError(f"{workdir} holds a run whose settings are damaged: use another --workdir")


def readable(result: dict) -> str:
    """The result of a run as a table for people."""
    test, other = result["test"], result["test_by_aggregation"]
    lines = [
        f"\n{result['dataset']}, {result['method']}, seed {result['seed']}: "
        f"{result['num_classes']} classes, {result['num_pseudo_classes']} pseudo-classes, "
        f"{result['aggregate']} aggregation; test set of {test['n']}",
        "",
        f"  {'class':<16}{'train':>8}{'test':>8}{'AP %':>8}{'95 % interval':>18}{'chance':>9}",
    ]
    for name, ap in test["ap"].items():
        counts = f"{result['train_counts'][name]:>8}{test['counts'][name]:>8}"
        lines.append(f"  {name:<16}{counts}{figures(ap, test['ap_ci'][name], test['chance_ap'][name])}")
    lines.append(f"  {'macro AP':<32}{figures(test['macro_ap'], test['macro_ap_ci'])}")
    lines.append(f"  {'balanced accuracy':<32}{figures(test['ba'], test['ba_ci'], 1 / result['num_classes'])}")
    both = ", ".join(f"{how}: BA {percent(s['ba'])}, macro AP {percent(s['macro_ap'])}" for how, s in other.items())
    timing = result["timing"]
    lines += [
        "",
        f"  by aggregation: {both}",
        f"  validation: BA {percent(result['val']['ba'])}, macro AP {percent(result['val']['macro_ap'])}",
        f"  time: {timing['total_s']:.1f} s in all, {timing['train_s']:.1f} s training, "
        f"{timing['compile_s']:.1f} s compiling",
    ]
    if skipped := result.get("skipped_steps"):
        lines.append(f"  skipped: {skipped} steps, whose loss or gradient was not finite")
    return "\n".join(lines)


def readable_population(results: list[dict]) -> str:
    """The results of several seeds as a table for people."""
    first, count = results[0], len(results)
    lines = [
        f"\n{first['dataset']}, {first['method']}, {count} seeds: {first['num_classes']} classes, "
        f"{first['num_pseudo_classes']} pseudo-classes, {first['aggregate']} aggregation; test set of "
        f"{first['test']['n']}",
        "",
        f"  {'seed':<16}{'BA %':>8}{'macro AP %':>12}{'val BA %':>10}",
    ]
    rows = [(result["test"]["ba"], result["test"]["macro_ap"], result["val"]["ba"]) for result in results]
    columns = np.array(rows, float)  # None, of what is undefined, becomes NaN
    named = [(str(result["seed"]), row) for result, row in zip(results, columns, strict=True)]
    named += [("mean", columns.mean(axis=0)), ("standard dev.", columns.std(axis=0, ddof=1))]
    for name, (ba, macro_ap, val_ba) in named:
        lines.append(f"  {name:<16}{100 * ba:>8.1f}{100 * macro_ap:>12.1f}{100 * val_ba:>10.1f}")
    timing = first["timing"]
    together = f"{timing['trials']} seeds as one program" if timing["trials"] > 1 else "the first seed"
    lines += ["", f"  time: {timing['train_s']:.1f} s training {together}, {timing['compile_s']:.1f} s compiling"]
    if skipped := sum(result.get("skipped_steps", 0) for result in results):
        lines.append(f"  skipped: {skipped} steps of the seeds, whose loss or gradient was not finite")
    return "\n".join(lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def figures(value: float | None, bounds: list | None, chance: float | None = None) -> str:
    """A value, its interval and its chance level, as columns."""
    spread = "-" if not bounds or bounds[0] is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"
    return f"{percent(value):>8}{spread:>18}" + ("" if chance is None else f"{percent(chance):>9}")


def cli() -> None:
    run(main, __doc__ or "", interrupted="; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    cli()
