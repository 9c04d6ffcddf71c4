"""Where the rows of a training go: to metrics.jsonl, the record that counts, and to what shows them as it runs."""

import contextlib
import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from rgjax.config import comma_list
from rgjax.errors import UserError
from rgjax.storage.files import atomic_path, write_json

Row = Mapping[str, float]


class Tracker(Protocol):
    """Takes the rows of one training, each with its `step`, in order."""

    def log(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl, a line for each row. Rows after `step`, which a resumed training will write again, are dropped."""

    def __init__(self, workdir: Path, step: int):
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in self._path.read_text(errors="replace").splitlines() if _step(line) <= step]
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept))

    def log(self, row: Row) -> None:
        try:
            with open(self._path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written: {error.strerror}; mend that, and the same command goes on from the "
                "last checkpoint"
            ) from error

    def close(self) -> None:
        pass


def _step(line: str) -> float:
    """The step of a row; infinite of one that is cut short or damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


class TensorBoard:
    """Event files in WORKDIR/tensorboard. Their reader is told to forget what an interrupted training wrote after
    `step`."""

    package, install = "tensorboardX", "uv sync"

    def __init__(self, workdir: Path, step: int, settings: Mapping[str, Any]):
        from tensorboardX.event_file_writer import EventsWriter

        self._event = importlib.import_module("tensorboardX.proto.event_pb2").Event
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # Not by SummaryWriter, whose thread dies of an error in silence: then its queue fills and training waits for
        # ever. The step in the file's name keeps a resume within the same second from overwriting what still holds.
        self._writer = EventsWriter(str(folder / "events"), f".{step:09}")
        self._write(step + 1, session_log={"status": "START"})

    def log(self, row: Row) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in row.items() if name != "step"]
        self._write(int(row["step"]), summary={"value": values})

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases in WORKDIR/wandb, for `wandb sync` to upload, or online by WANDB_MODE=online.

    An interrupted training goes on under the same id. The rows that it repeats are the same and are not sent again.
    """

    package, install = "wandb", "uv sync --extra wandb"

    def __init__(self, workdir: Path, step: int, settings: Mapping[str, Any]):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        wandb: Any = importlib.import_module(self.package)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._path = workdir / "wandb" / "run.json"
        self._sent = {"id": secrets.token_hex(4), "step": 0}
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # of a damaged file a new id is made
            self._sent |= json.loads(self._path.read_text())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._sent)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rgjax"),
            id=self._sent["id"],
            name=workdir.absolute().name,
            dir=str(workdir),
            config=dict(settings),
            mode=mode,
            resume="allow",
            reinit="create_new",  # the trials of a population have a run each
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, row: Row) -> None:
        step = int(row["step"])
        if step <= self._sent["step"]:
            return
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=step)
        self._sent["step"] = step
        write_json(self._path, self._sent)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, type[TensorBoard] | type[WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Trackers:
    """The trackers of one trial: its record, and those called `names`, each until it fails: that costs a line of
    warning and never the run."""

    def __init__(self, names: str, workdir: Path, step: int, settings: Mapping[str, Any]):
        self._record = JsonLines(workdir, step)
        self._chosen: dict[str, Tracker] = {}
        for name in comma_list(names):
            with self._spared(name):
                self._chosen[name] = TRACKERS[name](workdir, step, settings)

    def log(self, row: Row) -> None:
        self._record.log(row)
        for name, tracker in list(self._chosen.items()):
            with self._spared(name):
                tracker.log(row)

    def close(self) -> None:
        for name, tracker in list(self._chosen.items()):
            with self._spared(name):
                tracker.close()

    @contextlib.contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._chosen.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            tqdm.write(f"rgjax: warning: training goes on without config.trackers={name}: {reason}", file=sys.stderr)


def require_trackers(names: str) -> None:
    """Raise UserError where the package of one of the trackers is not installed."""
    for name in comma_list(names):
        tracker = TRACKERS[name]
        found = importlib.util.find_spec(tracker.package)
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            raise UserError(f"config.trackers={name} needs the package {tracker.package}: {tracker.install}")
