"""From a config and a task to the training program and its hyper-parameters."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rgjax.config import FIELDS, FROZEN, Config, value_of
from rgjax.data import Dataset
from rgjax.data.augment import in_lanes, to_lanes
from rgjax.errors import UserError
from rgjax.losses import ClassStats, loss_of
from rgjax.models.factory import packing, padded, starts_from_checkpoint
from rgjax.models.tokenizer import Tokens
from rgjax.sharding import AXIS
from rgjax.training.compiler import compiler_options
from rgjax.training.feed import HostData
from rgjax.training.habits import make_habits
from rgjax.training.layout import layout_for
from rgjax.training.loop import TrainSchedule
from rgjax.training.program import HyperParams, StepSpec, TrainState, draw_epoch
from rgjax.training.task import Task, kind_of

_CHECKPOINT_SECONDS = 30.0  # least, by default


def training_program(
    config: Config,
    task: Task,
    graph: nnx.GraphDef,
    state: TrainState,
    *,
    keys: Sequence[jax.Array],
    mesh: Mesh,
    platform: str,
) -> StepSpec:
    """The static parts of the program that trains the trials of `keys` on a task.

    A run calls it with arrays, preflight with their shapes: the program is the same.

    Args:
        config: of any of the trials.
        task: what they are trained on; of its inputs only the shapes and the lengths of sentences are read.
        graph: structure of the network.
        state: its parameters and statistics, or their shapes.
        keys: the random key of each trial.
        mesh: the devices that share the trials.
        platform: of these devices.
    """
    schedule = make_schedule(config, task.examples_per_epoch(config))
    tokens = 0
    if isinstance(task.inputs, Tokens):
        lengths = task.inputs.lengths[task.indices]
        tokens = max(max_batch_tokens(lengths, task.pool, key, schedule, mesh.shape[AXIS]) for key in keys)
    return StepSpec(
        graph=graph,
        loss=loss_of(config.loss).function,
        prepare=make_prepare(task, tokens),
        optimizer=config.train.optimizer,
        batch_size=schedule.batch_size,
        steps_per_epoch=schedule.steps_per_epoch,
        mesh=mesh,
        layout=layout_for(platform, state.params, state.batch_stats),
        skip=config.train.on_nan == "skip",
        habits=make_habits(config.train, nnx.merge(graph, state.params, state.batch_stats)),
        by_trial=config.model.name in FROZEN,
        in_turn=config.model.name in FROZEN and platform == "cpu",
        compiler_options=compiler_options(config.train.deterministic, platform),
    )


def host_data(inputs: np.ndarray | Tokens) -> HostData:
    """Inputs on the host, with the form in which the devices keep them."""
    return HostData(inputs, to_lanes) if kind_of(inputs) == "images" else HostData(inputs)


def make_prepare(task: Task, tokens: int) -> Callable:
    """The preparation of a batch of the task's inputs in the devices' form.

    A batch of sentences has up to `tokens` tokens; features are read as they are.
    """
    if isinstance(task.inputs, Tokens):
        return packing(tokens)
    if kind_of(task.inputs) == "features":
        return _unchanged
    return in_lanes(task.inputs[:1], task.preprocessing and task.preprocessing.normalize)[1]


def _unchanged(features: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    return features


def max_batch_tokens(
    lengths: np.ndarray, pool: np.ndarray, key: jax.Array, schedule: TrainSchedule, devices: int = 1
) -> int:
    """The most tokens in any device's share of any batch that a training will draw.

    Args:
        lengths: tokens of each training example [N].
        pool: what the sampler draws from [P].
        key: of the training.
        schedule: how many batches are drawn, and of which size.
        devices: that share a batch.
    """
    epochs = -(-schedule.total_steps // schedule.steps_per_epoch)

    @jax.jit
    def largest(lengths, pool, key):
        def of_epoch(epoch):
            positions = draw_epoch(key, epoch, pool, schedule.steps_per_epoch, schedule.batch_size)
            return lengths[positions.reshape(schedule.steps_per_epoch, devices, -1)].sum(axis=2).max()

        return jax.lax.map(of_epoch, jnp.arange(epochs, dtype=jnp.int32)).max()

    return int(largest(lengths, pool, key))


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
        checkpoint_seconds=_CHECKPOINT_SECONDS if saves_by_default(config) else 0.0,
    )


def saves_by_default(config: Config) -> bool:
    """Whether nothing was asked about the checkpoint interval."""
    names = [f"train.checkpoint_{unit}" for unit in ("steps", "epochs", "percent")]
    return all(value_of(config, name) == FIELDS[name].default for name in names)


def duration(
    config: Config, name: str, *, total_steps: int, steps_per_epoch: int, whole_epochs: bool = False
) -> int | None:
    """A duration of the config in steps, at least 1; None if it is unset.

    Args:
        config: in which steps overrule epochs, and epochs a percentage.
        name: of the duration, such as "train.eval".
        total_steps: what a percentage is taken of.
        steps_per_epoch: of the training.
        whole_epochs: whether a percentage is rounded up to whole epochs.
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


def make_augmentation(configs: Sequence[Config], task: Task) -> list[dict[str, np.float32]]:
    """The augmentation of each trial of a population; empty unless inputs are images."""
    if kind_of(task.inputs) != "images":
        return [{} for _ in configs]
    jitters = any(config.data.color_jitter for config in configs)  # trials share a program
    return [
        {"flip": np.float32(0.5 if config.data.flip else 0.0), "rotation": np.float32(config.data.rotation)}
        | ({"jitter": np.float32(config.data.color_jitter)} if jitters else {})
        for config in configs
    ]


def make_hyper(
    config: Config, schedule: TrainSchedule, stats: ClassStats, augmentation: dict[str, np.float32]
) -> HyperParams:
    """The hyper-parameters of one trial, padded to the network's output width.

    Args:
        config: of the trial.
        schedule: of the trial.
        stats: of the classes.
        augmentation: of the trial.
    """
    outputs = len(stats.counts)
    loss = loss_of(config.loss)
    weights = loss.weights(stats)

    def pad(values):
        return np.pad(values, (0, padded(outputs) - outputs)) if np.ndim(values) else values

    return HyperParams(
        lr=np.float32(config.train.lr),
        momentum=np.float32(config.train.momentum),
        weight_decay=np.float32(config.train.weight_decay),
        warmup_steps=np.int32(schedule.warmup),
        total_steps=np.int32(schedule.total_steps),
        outputs=np.int32(outputs),
        augmentation=augmentation,
        loss={name: pad(value) for name, value in loss.arguments(config.loss, stats).items()},
        class_weights=pad(weights),
        drw_weights=pad(weights if schedule.drw_start is None else stats.effective_weights()),
        drw_start=np.int32(schedule.total_steps if schedule.drw_start is None else schedule.drw_start),
        head_only_steps=np.int32(config.train.head_only_percent / 100 * schedule.total_steps),
    )


def require_trainable(config: Config, dataset: Dataset) -> None:
    """Raise UserError if the config cannot train on the data set."""
    if config.train.batch_size > len(dataset.train):
        raise UserError(
            f"config.train.batch_size={config.train.batch_size}: larger than the training set of {len(dataset.train)} "
            f"{dataset.kind}; lower it"
        )
    if config.sampler == "deepsmote" and dataset.kind != "images" and config.model.name not in FROZEN:
        raise UserError(f"config.sampler=deepsmote: makes images, not {dataset.kind}; use --config.sampler=ros")
    for field, default in (("layer_decay", 1.0), ("head_lr", 1.0), ("head_only_percent", 0.0)):
        if (value := config.train[field]) != default and not starts_from_checkpoint(config.model):
            raise UserError(
                f"config.train.{field}={value}: is for pretrained networks; use --config.model.name=pretrained"
            )
