"""Trains one trial, or several as one program, and computes their final logits."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rgjax import console, metrics
from rgjax.config import FROZEN, Config, identity
from rgjax.losses import class_stats, scale_logits
from rgjax.models.factory import Network
from rgjax.models.tokenizer import Tokens
from rgjax.sharding import (
    AXIS,
    in_any_process,
    in_batches,
    is_first_process,
    put,
    replicated,
    stack,
    trial_sharded,
    wait_for_all,
)
from rgjax.training import faults
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.feed import DeviceFeed, StreamFeed, device_memory, streams
from rgjax.training.loop import Callbacks, Fault, Status, TrainSchedule, fit, nonfinite_logits
from rgjax.training.program import HyperParams, StepSpec, TrainState, init_state, make_predict, make_run_steps
from rgjax.training.setup import host_data, make_augmentation, make_hyper, make_prepare, make_schedule, training_program
from rgjax.training.task import Task
from rgjax.training.trackers import Trackers

_log = logging.getLogger(__name__)

_LONG = 600  # seconds of training that are announced
_EVAL_BATCH = 256  # examples; less if both val and test are smaller


class Trial(NamedTuple):
    """One run: its settings and its folder."""

    config: Config
    workdir: Path


class Outcome(NamedTuple):
    """Final logits [n, K] by split, number of skipped steps, error if diverged."""

    logits: dict[str, np.ndarray]
    skipped: int
    error: str | None


@dataclass(frozen=True)
class Session:
    """Everything that stays constant while the trials of a task train together.

    Attributes:
        task: the data to train and evaluate on.
        trials: T runs that differ only in traced settings.
        schedules: the schedule of each trial; they differ only in warm-up and deferred re-weighting.
        checkpoints: the checkpoints of each trial.
        spec: the static parts of the training program.
        feed: the training data on the devices.
        keys: the random key of each trial.
        hyper: hyper-parameters [T, ...] and `key` [T] on the devices.
    """

    task: Task
    trials: Sequence[Trial]
    schedules: Sequence[TrainSchedule]
    checkpoints: Sequence[Checkpoints]
    spec: StepSpec
    feed: DeviceFeed | StreamFeed
    keys: Sequence[jax.Array]
    hyper: HyperParams
    key: jax.Array

    @property
    def config(self) -> Config:
        """The settings that all trials share."""
        return self.trials[0].config

    @property
    def schedule(self) -> TrainSchedule:
        return self.feed.schedule


def train(
    task: Task, trials: Sequence[Trial], models: Sequence[Network], mesh: Mesh
) -> tuple[list[Outcome], dict[str, Any]]:
    """Train all trials as one program, or resume them from the same step.

    Args:
        task: the data to train and evaluate on.
        trials: runs that differ only in traced settings.
        models: the network of each trial before training.
        mesh: the devices that share the trials.

    Returns:
        The outcome of each trial, and the timing that all of them share.
    """
    session, state, status = open_session(task, trials, models, mesh)
    first_step, before_s = int(np.asarray(state.step)[0]), status.train_s
    run_steps, compile_s = compile_steps(session, state)
    predict = make_predict_split(session)
    trackers = open_trackers(session, first_step)
    with console.deferring_sigterm():
        try:
            callbacks = make_callbacks(session, predict, trackers)
            state = fit(run_steps, state, session.schedule, callbacks, status, skip=session.spec.skip)
        finally:
            for resource in (*session.checkpoints, *trackers):
                resource.close()
    outcomes = evaluate_outcomes(session, state, status, predict)
    examples = len(trials) * (session.schedule.total_steps - first_step) * session.spec.batch_size
    return outcomes, {
        "trials": len(trials),
        "compile_s": round(compile_s, 3),
        "train_s": round(status.train_s, 3),
        "examples_per_s": round(examples / (status.train_s - before_s), 2) if examples else None,
    }


def open_session(
    task: Task, trials: Sequence[Trial], models: Sequence[Network], mesh: Mesh
) -> tuple[Session, TrainState, Status]:
    """Restore the trials and put their states and data on the devices.

    Args:
        task: the data to train and evaluate on.
        trials: runs that differ only in traced settings.
        models: the network of each trial before training.
        mesh: the devices that share the trials.
    """
    config, shared, by_trial = trials[0].config, replicated(mesh), trial_sharded(mesh)
    schedules = [make_schedule(trial.config, task.examples_per_epoch(config)) for trial in trials]
    checkpoints = [Checkpoints(trial.workdir / "checkpoints") for trial in trials]
    graphs, states = zip(*(init_state(model, config.train.optimizer) for model in models), strict=True)
    restored = [files.restore(state, shared) for files, state in zip(checkpoints, states, strict=True)]
    states, seconds, skipped = zip(*restored, strict=True)

    keys = [jax.random.key(trial.config.seed) for trial in trials]
    spec = training_program(config, task, graphs[0], states[0], keys=keys, mesh=mesh, platform=jax.default_backend())
    stats = class_stats(config.loss, task.regrouping)
    configs = [trial.config for trial in trials]
    by_trial_settings = zip(configs, schedules, make_augmentation(configs, task), strict=True)
    hypers = [make_hyper(config, schedule, stats, how) for config, schedule, how in by_trial_settings]
    session = Session(
        task=task,
        trials=trials,
        schedules=schedules,
        checkpoints=checkpoints,
        spec=spec,
        feed=make_feed(config, task, schedules[0], mesh, keys),
        keys=keys,
        hyper=put(stack(hypers), by_trial),
        key=put(jnp.stack(keys), by_trial),
    )
    state = put(stack([spec.layout.flatten(state) for state in states]), by_trial)
    return session, state, Status(max(seconds), np.array(skipped))


def make_feed(
    config: Config, task: Task, schedule: TrainSchedule, mesh: Mesh, keys: Sequence[jax.Array]
) -> DeviceFeed | StreamFeed:
    """Put the training data on the devices, or stream it if it is too large.

    Args:
        config: gives the placement, `data.placement`.
        task: the data.
        schedule: the steps that read the data.
        mesh: the devices.
        keys: the random key of each trial, from which its batches are drawn.
    """
    host = host_data(task.inputs)
    if streams(config.data.placement, host, mesh.shape[AXIS], device_memory()):
        return StreamFeed(host, task.examples, schedule, mesh, keys)
    return DeviceFeed(host, task.examples, schedule, mesh)


def compile_steps(session: Session, state: TrainState) -> tuple[Callable, float]:
    """The compiled `(state, step, count) -> (state, Totals)`, and its compile time."""
    shared = replicated(session.spec.mesh)
    started = time.perf_counter()
    step = min(int(np.asarray(state.step)[0]), session.schedule.total_steps - 1)
    arguments = put(np.int32(1), shared), session.feed.at(step), session.hyper, session.key
    compiled = make_run_steps(session.spec).lower(state, *arguments).compile()
    compile_s = time.perf_counter() - started
    wait_for_all("the program")  # a process gives up if the others join its first call half a minute late

    def run_steps(state, step, count):
        return compiled(state, put(np.int32(count), shared), session.feed.at(step), session.hyper, session.key)

    return run_steps, compile_s


def make_predict_split(session: Session) -> Callable[[TrainState, str], list[np.ndarray]]:
    """`(state, split) -> logits [n, K] of each trial`, scaled as in its loss."""
    task, spec, loss = session.task, session.spec, session.config.loss
    splits = {"val": task.dataset.val, "test": task.dataset.test}
    # The batch size is a multiple of the number of devices that share a batch.
    size = spec.shards * -(-min(_EVAL_BATCH, max(map(len, splits.values()))) // spec.shards)
    batches = {split: in_batches(indices, size) for split, indices in splits.items()}
    tokens = 0
    if isinstance(task.inputs, Tokens):
        lengths = [task.inputs.lengths[indices].reshape(-1, size // spec.shards) for indices in batches.values()]
        tokens = max(int(of_split.sum(axis=1).max()) for of_split in lengths)
    predict = make_predict(spec.graph, make_prepare(task, tokens), spec.mesh, spec.layout)
    stats = class_stats(loss, task.regrouping)

    def predict_split(state: TrainState, split: str) -> list[np.ndarray]:
        chunks = session.feed.eval_chunks(batches[split])
        logits = np.concatenate([predict(state, inputs, indices) for inputs, indices in chunks], axis=1)
        logits = logits[:, : len(splits[split]), : task.regrouping.num_pseudo_classes]
        return [
            np.asarray(scale_logits(trial.config.loss, stats, of_trial))
            for trial, of_trial in zip(session.trials, logits, strict=True)
        ]

    return predict_split


def open_trackers(session: Session, step: int) -> list[Trackers]:
    """The trackers of each trial, from `step` on; only the first process has any."""
    return [
        Trackers(trial.config.trackers, trial.workdir, step, identity(trial.config))
        for trial in session.trials
        if is_first_process()
    ]


def make_callbacks(session: Session, predict: Callable, trackers: Sequence[Trackers]) -> Callbacks:
    """The callbacks that evaluate, save and log the trials."""
    task, spec = session.task, session.spec
    member = jax.jit(
        lambda state, i: spec.layout.unflatten(jax.tree.map(lambda x: x[i], state)),
        out_shardings=replicated(spec.mesh),
    )

    def evaluate(state: TrainState) -> list[dict[str, float] | None]:
        return [validate(task, logits, session.config.regroup.aggregate) for logits in predict(state, "val")]

    def save(state: TrainState, status: Status) -> None:
        for i, checkpoints in enumerate(session.checkpoints):
            if i not in status.diverged:
                checkpoints.save(member(state, np.int32(i)), status.train_s, int(status.skipped[i]))

    def log(i: int, row: dict[str, Any]) -> None:
        if is_first_process():
            trackers[i].log(row)

    def on_nonfinite(i: int, state: TrainState, fault: Fault) -> str:
        trial, schedule = session.trials[i], session.schedules[i]
        indices = task.indices[faults.batch_at(session.keys[i], fault.step, task.pool, schedule)]
        return faults.save_debug(
            trial.workdir / "debug",
            member(state, np.int32(i)),
            fault,
            learning_rate=faults.learning_rate_at(fault.step, trial.config.train.lr, schedule),
            indices=indices,
            ids=task.ids(indices),
        )

    return Callbacks(evaluate, save, log, on_nonfinite, preempted, partial(forecast, session.config))


def forecast(config: Config, seconds: float) -> None:
    """Say how long the rest of training takes, if it is long, and what makes it short."""
    if seconds > _LONG:
        length = "steps" if config.train.steps else "epochs"
        way_out = f"lower --config.train.{length} (now {config.train[length]})"
        if config.model.name not in FROZEN:
            way_out += ", or train a head on features in minutes by --config.model.name=mlp"
        _log.info(f"training will take {console.in_words(seconds)}; {way_out}")


def preempted() -> Callable[[], bool]:
    """Ask if any process received SIGTERM; call the result to wait for the answer."""
    if jax.process_count() == 1:
        return console.sigterm_requested
    any_requested = in_any_process(console.sigterm_requested())

    def wait() -> bool:
        if stop := any_requested():
            console.request_sigterm()  # the processes end together, at the same step
        return stop

    return wait


def evaluate_outcomes(session: Session, state: TrainState, status: Status, predict: Callable) -> list[Outcome]:
    """The final logits of each trial, or its error message."""
    logits = {split: predict(state, split) for split in ("val", "test")}
    outcomes = []
    for i in range(len(session.trials)):
        error = status.diverged.get(i)
        if error is None and not np.isfinite(logits["test"][i]).all():
            error = nonfinite_logits(session.schedule.total_steps)
        outcomes.append(Outcome({split: logits[split][i] for split in logits}, int(status.skipped[i]), error))
    return outcomes


def validate(task: Task, logits: np.ndarray, how: str) -> dict[str, float] | None:
    """Validation metrics of pseudo-class logits [n, K], aggregated by `how`.

    None if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        return None
    dataset = task.dataset
    logits, labels = task.regrouping.class_logits(logits, how), dataset.labels[dataset.val]
    ap = metrics.average_precision(metrics.log_odds(logits), labels)
    ba = metrics.balanced_accuracy(labels, logits.argmax(axis=1), len(dataset.class_names))
    return {"val_ba": float(ba), "val_macro_ap": float(np.nanmean(ap))}
