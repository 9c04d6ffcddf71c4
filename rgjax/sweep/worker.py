"""The work of a sweep: train the runs of some workdirs, wherever this is called.

`python -m rgjax.sweep.worker` works through lines of its standard input, each a JSON list of workdirs, and answers
each with a line. It ends with its input, in the middle of a run too, which it saves: no worker outlives the sweep that
started it.
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
from rgjax.errors import Preempted, UserError
from rgjax.storage.files import cache_dir, lock_run_dir, write_json


def work(workdirs: Sequence[str], cwd: str) -> None:
    """Train the runs that the workdirs' config.json describe, as one program if there are several.

    What they say goes to the log.txt of the first; an error to each one's failure.json. A workdir that another process
    has in hand is waited for. `cwd` is where relative paths in the settings begin.
    """
    if os.path.isdir(cwd):
        os.chdir(cwd)
    folders = [Path(name) for name in workdirs]
    with contextlib.ExitStack() as hands:
        for folder in sorted(folders):
            hands.enter_context(lock_run_dir(folder, blocking=True))
        log = hands.enter_context(open(folders[0] / "log.txt", "a", buffering=1, encoding="utf-8"))
        hands.enter_context(contextlib.redirect_stderr(log))
        print(f"begun on {platform.node()}, process {os.getpid()}", file=log)
        for folder in folders:
            (folder / "failure.json").unlink(missing_ok=True)
        try:
            _train(folders)
        except UserError as error:
            _fail(folders, str(error), lasting=True)
        except Exception as error:  # one run's fault must not end the others
            traceback.print_exc()
            _fail(folders, f"{type(error).__name__}: {error}", lasting=False)


def _train(folders: Sequence[Path]) -> None:
    # Imported here: the sweep itself, and a worker that waits, need no jax.
    import jax
    from ml_collections import ConfigDict

    from rgjax import experiment
    from rgjax.training.trainer import Trial

    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    trials = [Trial(ConfigDict(json.loads((folder / "config.json").read_text())), folder) for folder in folders]
    experiment.run_population(trials)


def _fail(folders: Sequence[Path], error: str, *, lasting: bool) -> None:
    for folder in folders:
        if not (folder / "result.json").exists():
            record_failure(folder, error, lasting=lasting)


def record_failure(workdir: Path, error: str, *, lasting: bool) -> None:
    """Write failure.json: the error in one line, and whether the same settings will fail again."""
    write_json(workdir / "failure.json", {"error": " ".join(error.split()), "lasting": lasting})


def failure(workdir: Path) -> dict:
    """What `record_failure` left of a run that has no result."""
    nothing = {"error": "it left neither a result nor an error", "lasting": False}
    path = workdir / "failure.json"
    try:
        return nothing | (json.loads(path.read_text()) if path.exists() else {})
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: remove it") from error


def serve() -> None:
    console.listen_for_sigterm()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    jobs: SimpleQueue[str] = SimpleQueue()

    def feed() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=feed, daemon=True).start()
    with contextlib.suppress(Preempted):
        while True:
            work(*json.loads(jobs.get()))
            print("done", file=answers, flush=True)


if __name__ == "__main__":
    serve()
