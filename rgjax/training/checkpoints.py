"""Checkpoints of the training state by Orbax, each with a checksum."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import struct
from jax.sharding import NamedSharding

from rgjax.errors import UserError, first_line
from rgjax.sharding import in_any_process, is_first_process, wait_for_all
from rgjax.storage.files import digest, set_aside
from rgjax.training.program import TrainState


@struct.dataclass
class StoredState:
    """A TrainState on disk.

    It needs no `alive`, because trials that have diverged are not saved.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: Any

    @classmethod
    def of(cls, state: TrainState) -> "StoredState":
        return cls(state.params, state.batch_stats, state.opt_state, state.step)


# One for all runs of a population: Orbax numbers saves for the whole process, and two at a time would be mixed up.
_THREAD = ThreadPoolExecutor(1, "checkpoint")


class Checkpoints:
    """The two newest checkpoints of a run.

    Each has the seconds trained and the steps skipped until then.

    A half-written checkpoint is never read. A corrupted one is moved aside, and the one before it is restored. A thread
    computes the checksum and begins to write, so that a checkpoint appears with its checksum or not at all.
    """

    def __init__(self, directory: Path):
        self._directory = directory.absolute()
        self._writing: Future[None] | None = None

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Made when it is needed, which is never for a run whose scores alone matter."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self._directory, options=options)

    def restore(self, state: TrainState, sharding: NamedSharding | None = None) -> tuple[TrainState, float, int]:
        """The newest sound state, and the seconds trained and steps skipped until then.

        `state` itself, 0 and 0 if there is none. The arrays are placed by `sharding`, or as those of `state`.
        """
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), StoredState.of(state)
        )
        for step in sorted(self._manager.all_steps(), reverse=True) if self._directory.exists() else ():
            restored, reason = None, "in another process"
            try:
                restored = self._read(step, target)
            except Exception as error:  # Orbax, TensorStore and JSON raise errors of their own for corrupted files
                reason = _reason(error)
            if not in_any_process(restored is None)() and restored is not None:
                return restored
            if is_first_process():
                set_aside(self._directory / str(step), reason)
            wait_for_all("set aside")
            self._manager.reload()
        return state, 0.0, 0

    def _read(self, step: int, target: StoredState) -> tuple[TrainState, float, int]:
        try:
            restored = self._restore(step, target)
        except Exception:  # as in `restore`
            older = StoredState(*map(_without_later, vars(target).values()))
            if jax.tree.structure(older) == jax.tree.structure(target):
                raise
            restored = self._restore(step, older)
        state, clock = restored.state, dict(restored.clock)
        # Older versions wrote neither the checksum nor the skipped steps.
        if (checksum := clock.pop("sha256", None)) and checksum != _checksum(state, clock):
            raise ValueError("checksum")
        state = _with_later(state, target)
        state = TrainState(state.params, state.batch_stats, state.opt_state, state.step)
        return state, clock["train_s"], clock.get("skipped", 0)

    def _restore(self, step: int, target: StoredState) -> Any:
        how = ocp.args.Composite(state=ocp.args.StandardRestore(target), clock=ocp.args.JsonRestore())
        return self._manager.restore(step, args=how)

    def save(self, state: TrainState, train_s: float, skipped: int = 0) -> None:
        """Start to write a checkpoint.

        Raises UserError if an earlier one could not be written.
        """
        self._wait()
        step = int(state.step)
        if step != self._manager.latest_step():
            stored = jax.device_get(StoredState.of(state))
            self._writing = _THREAD.submit(self._write, step, stored, {"train_s": train_s, "skipped": skipped})
            if jax.process_count() > 1:  # Orbax synchronizes processes, in the order of the main threads
                self._wait()

    def _write(self, step: int, stored: StoredState, clock: dict[str, Any]) -> None:
        clock = {**clock, "sha256": _checksum(stored, clock)}
        with self._user_errors():
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(stored), clock=ocp.args.JsonSave(clock))
            )

    def _wait(self) -> None:
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Wait until all checkpoints are on disk.

        Raises UserError if one cannot be written.
        """
        if "_manager" not in vars(self):
            return
        self._wait()
        with self._user_errors():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _user_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # errors of the file system, wrapped by TensorStore or Orbax
            raise UserError(
                f"{self._directory}: cannot be written: {_reason(error)}; fix this and rerun the same command to "
                "resume from the last checkpoint"
            ) from error


# The embeddings of token types. Older versions added them to the positions', and their states lack them.
_LATER = "types"


def _without_later(tree: Any) -> Any:
    kind: Any = type(tree)
    if isinstance(tree, Mapping):
        return kind({name: _without_later(part) for name, part in tree.items() if name != _LATER})
    if isinstance(tree, tuple):
        parts = map(_without_later, tree)
        return kind(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def _with_later(state: StoredState, target: StoredState) -> StoredState:
    """A state with zeros for what `target` has besides."""
    values = dict(jax.tree_util.tree_flatten_with_path(state)[0])
    paths, structure = jax.tree_util.tree_flatten_with_path(target)
    leaves = [
        values[path] if path in values else jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        for path, leaf in paths
    ]
    return jax.tree.unflatten(structure, leaves)


def _checksum(state: StoredState, clock: dict[str, float]) -> str:
    return digest(json.dumps(clock), *(np.asarray(leaf) for leaf in jax.tree.leaves(state)))


def _reason(error: Exception) -> str:
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's, after the names of its files
        return os.strerror(int(code[1]))
    return first_line(error)
