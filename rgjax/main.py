"""Train and evaluate one method on one data set.

    python -m rgjax.main --config=configs/FILE.py[:METHOD] [--config.NAME=VALUE ...] [--workdir=DIR]

The same command resumes an interrupted run from its last checkpoint, and prints the result of a finished one.

Options:

    --workdir=DIR            folder of the run (runs/DATASET-METHOD-HASH); with --config.population=N it has a subfolder
                             seed-S for each of N seeds
    --distributed            one run of several processes: start the same command, with the same workdir, on every host;
                             Slurm, Open MPI, Kubernetes and TPU pods connect the processes, elsewhere the next three do
    --coordinator=HOST:PORT  address of the first process
    --processes=N            number of processes
    --process=I              number of this process, from 0
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
from rgjax.command import read_config, run_with_config
from rgjax.config import Config
from rgjax.console import local_path
from rgjax.data import display_name
from rgjax.data.notes import recorded_notes
from rgjax.errors import UserError, first_line
from rgjax.report.summary import format_population, format_result
from rgjax.sharding import is_first_process, require_devices
from rgjax.storage import manifest, provenance
from rgjax.storage.files import digest, lock_run_dir
from rgjax.storage.programs import cache_programs
from rgjax.training.trainer import Trial

_log = python_logging.getLogger("rgjax")  # __name__ is "__main__" in a command

_WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one run of several processes")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process")
_PROCESSES = flags.DEFINE_integer("processes", None, "number of processes", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "number of this process, from 0", lower_bound=0)

_HEARTBEAT_TIMEOUT = 30  # seconds without a sign of life from another process, after which a run ends


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax logs its settings, and logs errors that it raises as well
    config = read_config()
    connect_processes()
    workdir = local_path(_WORKDIR.value) if _WORKDIR.value else default_workdir(config)
    require_devices()
    cache_programs()
    results = run_trials(config, workdir)
    if is_first_process():
        print(format_result(results[0]) if len(results) == 1 else format_population(results))
        for note in recorded_notes(provenance.read(make_trials(config, workdir)[0].workdir)):
            print(f"  note: {note}")
        print(f"\nall files: {workdir}")


def run_trials(config: Config, workdir: Path) -> list[dict]:
    """Run what is not finished, with its folders locked; return all results."""
    trials = make_trials(config, workdir)
    configs = {workdir: config} | {trial.workdir: trial.config for trial in trials}
    finished = {folder for folder in configs if manifest.finished(folder)}
    with contextlib.ExitStack() as locks:
        for folder, folder_config in configs.items():
            if is_first_process() and folder not in finished:
                locks.enter_context(lock_run_dir(folder))
            artifacts.refuse_another(folder, folder_config)
        if all(trial.workdir in finished for trial in trials):
            return [artifacts.read_result(trial.workdir) for trial in trials]
        return exit_if_disconnected(lambda: experiment.run_population(trials))


def connect_processes() -> None:
    """Connect the processes of a distributed run. Raises UserError if that fails."""
    address = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if not _DISTRIBUTED.value:
        if address != (None, None, None):
            raise UserError("--coordinator, --processes and --process: need --distributed; add it")
        return
    # JAX's service would keep SIGTERM to itself; rgjax/edges handles it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *address,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {first_line(error)}; give --coordinator=HOST:PORT --processes=N --process=0..N-1"
        ) from error


def exit_if_disconnected(train: Callable[[], list[dict]]) -> list[dict]:
    """Return `train()`; exit at once if the connection to a process is lost."""
    try:
        return train()
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        _log.warning(
            f"lost connection to another process ({first_line(error)}); rerun the same command on every host to resume "
            "from the last checkpoint"
        )
        sys.stdout.flush()
        os._exit(1)  # a regular exit of JAX would wait for the other process


def make_trials(config: Config, workdir: Path) -> list[Trial]:
    """The run itself, or a run per seed of the population, in subfolders."""
    if config.population == 1:
        return [Trial(config, workdir)]
    trials = []
    for seed in range(config.seed, config.seed + config.population):
        trial_config = config.copy_and_resolve_references()
        trial_config.update({"seed": seed, "population": 1})
        trials.append(Trial(trial_config, workdir / f"seed-{seed}"))
    return trials


def default_workdir(config: Config) -> Path:
    """runs/DATASET-METHOD-HASH, the hash over all fields that identify the run."""
    dataset = display_name(config.data.name, config.data.manual_dir)
    name = "_".join(filter(None, (dataset, config.data.positive))).replace("/", "_")
    return Path("runs") / f"{name}-{config.method}-{digest(json.dumps(settings.identity(config)))[:8]}"


def cli() -> None:
    run_with_config(main, __doc__, interrupted="; rerun the same command to resume from the last checkpoint")


if __name__ == "__main__":
    cli()
