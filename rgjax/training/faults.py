"""Steps with a non-finite loss or gradient: debug files and error message."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.errors import first_few
from rgjax.sharding import is_first_process, wait_for_all
from rgjax.storage.files import write_json
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import Fault, TrainSchedule
from rgjax.training.optimizer import cosine_decay
from rgjax.training.program import TrainState, draw_epoch


def batch_at(
    key: jax.Array, step: int, pool: np.ndarray, schedule: TrainSchedule, size: np.ndarray | None = None
) -> np.ndarray:
    """The training positions [B] of a step's batch.

    Args:
        key: of the training.
        step: counted from 0.
        pool: what the sampler draws from [P].
        schedule: of the training.
        size: of the pool, if it is cycled.
    """
    epoch, within = divmod(step, schedule.steps_per_epoch)
    order = draw_epoch(key, jnp.int32(epoch), jnp.asarray(pool), schedule.steps_per_epoch, schedule.batch_size, size)
    return np.asarray(order[within])


def learning_rate_at(step: int, peak: float, schedule: TrainSchedule) -> float:
    lr = cosine_decay(
        jnp.int32(step), peak=jnp.float32(peak), warmup_steps=schedule.warmup, total_steps=schedule.total_steps
    )
    return float(lr)


def save_debug(
    folder: Path, state: TrainState, fault: Fault, *, learning_rate: float, indices: np.ndarray, ids: list[str]
) -> str:
    """Save what led to a fault: the state as a checkpoint, the rest in debug.json.

    Args:
        folder: replaced if it exists.
        state: before the fault.
        fault: the first step with a non-finite loss or gradient.
        learning_rate: of that step.
        indices: the examples [B] of its batch.
        ids: their names.

    Returns:
        The error message, in one line.
    """
    if is_first_process():
        shutil.rmtree(folder, ignore_errors=True)
    wait_for_all("debug")
    checkpoints = Checkpoints(folder)
    checkpoints.save(replace(state, step=jnp.int32(fault.step)), 0.0)
    checkpoints.close()
    finite = math.isfinite(fault.loss)
    if is_first_process():
        loss = fault.loss if finite else str(fault.loss)
        batch = {"rows": indices.tolist(), "ids": ids}
        write_json(folder / "debug.json", {"step": fault.step, "learning_rate": learning_rate, "loss": loss} | batch)
    after = f" and in the {fault.steps - 1} steps after it" if fault.steps > 1 else ""
    skip = "" if fault.skipped else ", or skip such steps with --config.train.on_nan=skip"
    return (
        f"the {'gradient' if finite else 'loss'} is not finite at step {fault.step}{after} (learning rate "
        f"{learning_rate:.3g}, examples {first_few(ids)}; the state before it is in {folder}); lower config.train.lr "
        f"or the scale of the loss{skip}"
    )
