"""Checkpoints of the training state, by Orbax, each with a checksum of what it must give back."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from rgjax.errors import UserError, first_line
from rgjax.sharding import in_any_process, is_first_process, wait_for_all
from rgjax.storage.files import digest, set_aside
from rgjax.training.program import TrainState


class Checkpoints:
    """The two newest checkpoints of a run and the clock that goes with each. A half-written one is never read, and of a
    damaged one no number is used: it is set aside, and the one before it serves."""

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def restore(self, state: TrainState, sharding: NamedSharding | None = None) -> tuple[TrainState, float, int]:
        """The newest sound state, on the devices of `sharding` or of `state`, the seconds trained and the steps skipped
        until then; `state` itself, 0 and 0 where there is none."""
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)
        for step in sorted(self._manager.all_steps(), reverse=True):
            saved, fault = None, "for another process"
            try:
                saved = self._read(step, target)
            except Exception as error:  # Orbax, TensorStore and JSON each have their own for what is damaged
                fault = _reason(error)
            if not in_any_process(saved is None)() and saved is not None:
                return saved
            if is_first_process():
                set_aside(self._directory / str(step), fault)
            wait_for_all("set aside")
            self._manager.reload()
        return state, 0.0, 0

    def _read(self, step: int, target: TrainState) -> tuple[TrainState, float, int]:
        saved: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(target), clock=ocp.args.JsonRestore()),
        )
        clock = dict(saved.clock)
        if (checksum := clock.pop("sha256", None)) and checksum != _checksum(saved.state, clock):
            raise ValueError("checksum")
        return saved.state, clock["train_s"], clock.get("skipped", 0)  # older versions wrote neither of the other two

    def save(self, state: TrainState, train_s: float, skipped: int = 0) -> None:
        """Begin to write; raises UserError where an earlier one could not be written."""
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        clock = {"train_s": train_s, "skipped": skipped}
        clock = {**clock, "sha256": _checksum(state, clock)}
        with self._told():
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), clock=ocp.args.JsonSave(clock))
            )

    def close(self) -> None:
        """Wait until what was saved is on disk. Raises UserError where it cannot be written."""
        with self._told():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the file system, in the words of TensorStore or Orbax
            raise UserError(
                f"{self._directory} cannot be written: {_reason(error)}; mend that, and the same command goes on "
                "from the last checkpoint"
            ) from error


def _checksum(state: TrainState, clock: dict[str, float]) -> str:
    return digest(json.dumps(clock), *(np.asarray(leaf) for leaf in jax.tree.leaves(state)))


def _reason(error: Exception) -> str:
    if of_system := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's, behind names of its files
        return os.strerror(int(of_system[1]))
    return first_line(error)
