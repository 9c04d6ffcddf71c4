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
import logging as python_logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags, logging

from rgjax import artifacts, experiment
from rgjax import config as settings
from rgjax.command import CONFIG, run
from rgjax.config import Config
from rgjax.console import local_path
from rgjax.data import display_name
from rgjax.errors import UserError, first_line
from rgjax.report.summary import readable, readable_population
from rgjax.sharding import is_first_process
from rgjax.storage import manifest
from rgjax.storage.files import cache_dir, digest, lock_run_dir
from rgjax.training.trainer import Trial

_log = python_logging.getLogger(__name__)

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
    workdir = local_path(_WORKDIR.value) if _WORKDIR.value else default_workdir(config)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    trials = members(config, workdir)
    with contextlib.ExitStack() as hands:
        for folder, own in ({workdir: config} | {trial.workdir: trial.config for trial in trials}).items():
            if is_first_process() and not manifest.finished(folder):
                hands.enter_context(lock_run_dir(folder))
            artifacts.refuse_another(folder, own)
        results = together(lambda: experiment.run_population(trials))
    if is_first_process():
        print(readable(results[0]) if len(results) == 1 else readable_population(results))
        print(f"\nall files: {workdir}")


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
        _log.warning(
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
    dataset = display_name(config.data.name, config.data.manual_dir)
    name = "_".join(filter(None, (dataset, config.data.positive))).replace("/", "_")
    return Path("runs") / f"{name}-{config.method}-{digest(json.dumps(settings.identity(config)))[:8]}"


def cli() -> None:
    run(main, __doc__ or "", interrupted="; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    cli()
