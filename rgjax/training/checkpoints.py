"""Checkpoints of the training state, by Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from rgjax.training.program import TrainState


def newest_step(directory: Path) -> int:
    """The step of the newest checkpoint in a directory, 0 where there is none."""
    return max(ocp.utils.checkpoint_steps(directory.absolute()), default=0) if directory.exists() else 0


class Checkpoints:
    """The newest checkpoint of a run and the clock that goes with it. A half-written one is never read."""

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def restore(self, state: TrainState, sharding: NamedSharding | None = None) -> tuple[TrainState, float, int]:
        """The newest saved state, on the devices of `sharding` or of `state`, the seconds trained and the steps skipped
        until then; `state` itself, 0 and 0 where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return state, 0.0, 0
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)
        saved: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(target), clock=ocp.args.JsonRestore()),
        )
        return saved.state, saved.clock["train_s"], saved.clock.get("skipped", 0)

    def save(self, state: TrainState, train_s: float, skipped: int = 0) -> None:
        step = int(state.step)
        if step != self._manager.latest_step():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    clock=ocp.args.JsonSave({"train_s": train_s, "skipped": skipped}),
                ),
            )

    def close(self) -> None:
        """Wait until what was saved is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
