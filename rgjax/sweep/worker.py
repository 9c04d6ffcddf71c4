"""Sweep worker: trains the runs of given workdirs.

`python -m rgjax.sweep.worker` reads jobs from standard input and answers each with the line "done" on standard output.
A job is a line of JSON: [workdirs, working directory]. When its input ends, the worker saves the run it is training and
exits: no worker outlives its sweep.
"""

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

from rgjax import console
from rgjax.errors import UserError
from rgjax.storage.files import lock_run_dir, read_json_object, write_json
from rgjax.storage.memory import keeping


def train_runs(workdirs: Sequence[str], cwd: str) -> None:
    """Train the runs of `workdirs` by their config.json.

    Several runs train as one program. Messages go to log.txt of the first workdir, errors to failure.json of each.
    Workdirs that another process has locked are waited for.

    Args:
        workdirs: absolute paths.
        cwd: the directory that relative paths in the settings refer to.
    """
    console.configure_logging()
    if os.path.isdir(cwd):
        os.chdir(cwd)
    folders = [Path(name) for name in workdirs]
    with contextlib.ExitStack() as stack:
        for folder in sorted(folders):
            stack.enter_context(lock_run_dir(folder, blocking=True))
        log = stack.enter_context(open(folders[0] / "log.txt", "a", buffering=1, encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(log))
        print(f"started on {platform.node()}, process {os.getpid()}", file=log)
        for folder in folders:
            (folder / "failure.json").unlink(missing_ok=True)
        try:
            _train(folders)
        except UserError as error:
            _write_failures(folders, str(error), lasting=True)
        except Exception as error:  # other jobs of this worker go on
            traceback.print_exc()
            _write_failures(folders, f"{type(error).__name__}: {error}", lasting=False)


def _train(folders: Sequence[Path]) -> None:
    # Imported here: the sweep itself, which imports this module, starts without JAX, and an idle worker needs none.
    import jax
    from ml_collections import ConfigDict

    from rgjax import experiment
    from rgjax.config import MAX_LAYERS, Config
    from rgjax.sharding import require_devices
    from rgjax.storage.programs import cache_programs
    from rgjax.training.trainer import Trial

    require_devices()
    cache_programs()
    configs: list[Config] = [ConfigDict(json.loads((folder / "config.json").read_text())) for folder in folders]
    if jax.default_backend() == "gpu":  # the runs of a sweep share a program, which may take long to compile
        for config in configs:
            config.model.unroll_layers = config.model.unroll_layers or MAX_LAYERS
    only_scores = [_description(folder).get("only_scores", False) for folder in folders]
    experiment.run_population([Trial(*trial) for trial in zip(configs, folders, only_scores, strict=True)])


def _description(folder: Path) -> dict:
    """The content of run.json, if there is any."""
    path = folder / "run.json"
    return read_json_object(path) if path.exists() else {}


def _write_failures(folders: Sequence[Path], error: str, *, lasting: bool) -> None:
    for folder in folders:
        if not (folder / "result.json").exists():
            write_failure(folder, error, lasting=lasting)


def write_failure(workdir: Path, error: str, *, lasting: bool) -> None:
    """Write failure.json: the error, and whether the same settings fail again."""
    write_json(workdir / "failure.json", {"error": " ".join(error.split()), "lasting": lasting})


def read_failure(workdir: Path) -> dict:
    """The content of a run's failure.json, or an error that says there is none.

    Raises UserError if the file is corrupted.
    """
    failure = {"error": "the run left neither a result nor an error", "lasting": False}
    path = workdir / "failure.json"
    try:
        return failure | (read_json_object(path) if path.exists() else {})
    except ValueError as error:
        raise UserError(f"{path} is corrupted ({error}); remove it") from error


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not read as an answer
    jobs: SimpleQueue[str] = SimpleQueue()

    def read_jobs() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read_jobs, daemon=True).start()
    with console.exit_codes(), keeping():
        while True:
            train_runs(*json.loads(jobs.get()))
            print("done", file=answers, flush=True)


if __name__ == "__main__":
    serve()
