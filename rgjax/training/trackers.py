"""Metric loggers; metrics.jsonl is authoritative.

A tracker that fails is dropped with a warning.
"""

import contextlib
import importlib.util
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from rgjax.config import comma_list
from rgjax.errors import UserError
from rgjax.storage.files import atomic_path, write_json

_log = logging.getLogger(__name__)

MetricRow: TypeAlias = Mapping[str, float]


class Tracker(Protocol):
    """Takes the metrics of one training, row by row, each with its `step`."""

    def log(self, row: MetricRow) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl, one row per line.

    Rows after `step` are dropped: the resumed training writes them again.
    """

    def __init__(self, workdir: Path, step: int):
        self._path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            kept = [line for line in self._path.read_text(errors="replace").splitlines() if _step(line) <= step]
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept))

    def log(self, row: MetricRow) -> None:
        try:
            with open(self._path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written: {error.strerror}; fix this and rerun the same command to resume "
                "from the last checkpoint"
            ) from error

    def close(self) -> None:
        pass


def _step(line: str) -> float:
    """The step of a row; infinity if the line is cut short or corrupted."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


class TensorBoard:
    """Event files in WORKDIR/tensorboard.

    On resuming, an event makes TensorBoard purge what the interrupted training wrote after `step`.
    """

    package, install = "tensorboardX", "uv sync"

    def __init__(self, workdir: Path, step: int, settings: Mapping[str, Any]):
        from tensorboardX.event_file_writer import EventsWriter

        self._event = importlib.import_module("tensorboardX.proto.event_pb2").Event
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # Not by SummaryWriter: an error kills its thread silently, its queue fills up and training hangs. The step in
        # the file's name keeps a training that resumes within the same second from overwriting the earlier file.
        self._writer = EventsWriter(str(folder / "events"), f".{step:09}")
        self._write(step + 1, session_log={"status": "START"})

    def log(self, row: MetricRow) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in row.items() if name != "step"]
        self._write(int(row["step"]), summary={"value": values})

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A Weights & Biases run in WORKDIR/wandb, or online with WANDB_MODE=online.

    A resumed training keeps its id. The rows that it repeats are the same and are not sent again.
    """

    package, install = "wandb", "uv sync --extra wandb"

    def __init__(self, workdir: Path, step: int, settings: Mapping[str, Any]):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to Weights & Biases
        wandb: Any = importlib.import_module(self.package)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._path = workdir / "wandb" / "run.json"
        self._sent = {"id": secrets.token_hex(4), "step": 0}
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # a corrupted file is replaced by a new id
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
            reinit="create_new",  # each trial of a population is a run of its own
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, row: MetricRow) -> None:
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
    """metrics.jsonl of one trial, and each tracker in `names` until it fails."""

    def __init__(self, names: str, workdir: Path, step: int, settings: Mapping[str, Any]):
        self._jsonl = JsonLines(workdir, step)
        self._trackers: dict[str, Tracker] = {}
        for name in comma_list(names):
            with self._drop_on_error(name):
                self._trackers[name] = TRACKERS[name](workdir, step, settings)

    def log(self, row: MetricRow) -> None:
        self._jsonl.log(row)
        for name, tracker in list(self._trackers.items()):
            with self._drop_on_error(name):
                tracker.log(row)

    def close(self) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._drop_on_error(name):
                tracker.close()

    @contextlib.contextmanager
    def _drop_on_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._trackers.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _log.warning("config.trackers=%s: failed (%s); training continues without it", name, reason)


def require_trackers(names: str) -> None:
    """Raise UserError if the package of a tracker is not installed."""
    for name in comma_list(names):
        tracker = TRACKERS[name]
        spec = importlib.util.find_spec(tracker.package)
        if spec is None or spec.origin is None:  # a mere folder of that name has no origin
            raise UserError(
                f"config.trackers={name}: needs the package {tracker.package}; install it by `{tracker.install}`"
            )
