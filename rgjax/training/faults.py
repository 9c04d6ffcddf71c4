"""A step whose loss or gradient is not finite: what led to it is kept for debugging and told in one line."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rgjax.errors import first_few
from rgjax.sharding import is_first_process, wait_for_all
from rgjax.storage.files import write_json
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import Fault, TrainSchedule
from rgjax.training.optimizer import cosine_decay
from rgjax.training.program import TrainState, draw_epoch


def batch_of(key, step: int, pool: np.ndarray, plan: TrainSchedule) -> np.ndarray:
    """The positions [B] in the training rows that a step of the training with this `key` is trained on."""
    epoch, within = divmod(step, plan.steps_per_epoch)
    order = draw_epoch(key, jnp.int32(epoch), jnp.asarray(pool), plan.steps_per_epoch, plan.batch_size)
    return np.asarray(order[within])


def rate_at(step: int, peak: float, plan: TrainSchedule) -> float:
    """The learning rate of a step."""
    rate = cosine_decay(jnp.int32(step), peak=jnp.float32(peak), warmup_steps=plan.warmup, total_steps=plan.total_steps)
    return float(rate)


def keep(folder: Path, state: TrainState, fault: Fault, *, rate: float, rows: np.ndarray, ids: list[str]) -> str:
    """Leave in the folder the `state` before the fault as a checkpoint, and debug.json with the `rows` [B] of its batch
    and their `ids`; returns what was wrong, in one line."""
    if is_first_process():
        shutil.rmtree(folder, ignore_errors=True)
    wait_for_all("debug")
    checkpoints = Checkpoints(folder)
    checkpoints.save(replace(state, step=jnp.int32(fault.step)), 0.0)
    checkpoints.close()
    finite = math.isfinite(fault.loss)
    if is_first_process():
        loss = fault.loss if finite else str(fault.loss)
        told = {"step": fault.step, "learning_rate": rate, "loss": loss, "rows": rows.tolist(), "ids": ids}
        write_json(folder / "debug.json", told)
    after = f" and in the {fault.steps - 1} steps after it" if fault.steps > 1 else ""
    skip = "" if fault.skipped else ", or leave such steps out by --config.train.on_nan=skip"
    return (
        f"the {'gradient' if finite else 'loss'} is not finite at step {fault.step}{after} (learning rate {rate:.3g}, "
        f"rows {first_few(ids)}; the state before it is in {folder}): lower config.train.lr or the loss's scale{skip}"
    )
