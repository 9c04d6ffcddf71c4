"""The lengths of a training in steps, and the hyper-parameters that the compiled program reads as it runs."""

from functools import partial

import jax
import numpy as np

from rgjax.config import Config, value_of
from rgjax.data import Dataset
from rgjax.errors import UserError
from rgjax.losses import ClassStats, loss_of
from rgjax.models.factory import padded
from rgjax.training.loop import TrainSchedule
from rgjax.training.program import HyperParams


def make_schedule(config: Config, examples_per_epoch: int) -> TrainSchedule:
    train = config.train
    steps_per_epoch = max(1, examples_per_epoch // train.batch_size)
    total_steps = train.steps or train.epochs * steps_per_epoch
    adapts = jax.process_count() == 1  # several processes would not agree on the length of a call
    steps = partial(duration, config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return TrainSchedule(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        steps_per_call=train.steps_per_call or (None if adapts else steps_per_epoch),
        warmup=steps("train.warmup") or 0,
        drw_start=steps("loss.drw_start"),
        eval_every=steps("train.eval", whole_epochs=True) or total_steps,
        checkpoint_every=steps("train.checkpoint", whole_epochs=True) or total_steps,
        batch_size=train.batch_size,
    )


def duration(
    config: Config, name: str, *, total_steps: int, steps_per_epoch: int, whole_epochs: bool = False
) -> int | None:
    """The duration called `name` (such as "train.eval") in steps, at least 1; None where it is unset.

    Steps overrule epochs, and epochs a percentage, which `whole_epochs` rounds up to whole epochs.
    """
    steps, epochs, percent = (value_of(config, f"{name}_{unit}") for unit in ("steps", "epochs", "percent"))
    if steps is not None:
        return steps
    if epochs is not None:
        return max(1, round(epochs * steps_per_epoch))
    if percent is not None:
        steps = int(percent / 100 * total_steps)
        return max(1, -(-steps // steps_per_epoch)) * steps_per_epoch if whole_epochs else max(1, steps)
    return None


def make_hyper(config: Config, schedule: TrainSchedule, stats: ClassStats) -> HyperParams:
    """The hyper-parameters of one trial; arrays [K] are padded to the network's output width."""
    outputs = len(stats.counts)
    weights = stats.inverse_weights if config.loss.name == "wce" else np.ones(outputs, np.float32)

    def wide(values):
        return np.pad(values, (0, padded(outputs) - outputs)) if np.ndim(values) else values

    augmentation = {}
    if config.model.name != "bert":
        flip, rotation = 0.5 if config.data.flip else 0.0, config.data.rotation
        augmentation = {"flip": np.float32(flip), "rotation": np.float32(rotation)}
    return HyperParams(
        lr=np.float32(config.train.lr),
        momentum=np.float32(config.train.momentum),
        weight_decay=np.float32(config.train.weight_decay),
        warmup_steps=np.int32(schedule.warmup),
        total_steps=np.int32(schedule.total_steps),
        outputs=np.int32(outputs),
        augmentation=augmentation,
        loss={name: wide(value) for name, value in loss_of(config.loss).arguments(config.loss, stats).items()},
        class_weights=wide(weights),
        drw_weights=wide(weights if schedule.drw_start is None else stats.effective_weights()),
        drw_start=np.int32(schedule.total_steps if schedule.drw_start is None else schedule.drw_start),
    )


def require_trainable(config: Config, dataset: Dataset) -> None:
    """Raise UserError where the config cannot train on the data set."""
    if config.train.batch_size > len(dataset.train):
        raise UserError(
            f"config.train.batch_size={config.train.batch_size}: larger than the training set of {len(dataset.train)} "
            f"{dataset.kind}; lower it"
        )
    if config.sampler == "deepsmote" and dataset.kind != "images":
        raise UserError(f"config.sampler=deepsmote: makes images, not {dataset.kind}; use --config.sampler=ros")
