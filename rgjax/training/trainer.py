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
from rgjax.losses import scale_logits
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
from rgjax.training.prediction import make_predict
from rgjax.training.program import HyperParams, StepSpec, TrainState, init_state, make_run_steps, run_steps_of_heads
from rgjax.training.setup import host_data, make_augmentation, make_hyper, make_prepare, make_schedule, training_program
from rgjax.training.task import Task, stacked
from rgjax.training.trackers import Trackers

_log = logging.getLogger(__name__)

_LONG = 600  # seconds of training that are announced
_EVAL_BATCH = 256  # examples; less if both val and test are smaller


class Trial(NamedTuple):
    """One run: its settings, its folder, and whether only its scores count.

    Such a run leaves neither checkpoints, unless it is interrupted, nor pictures of its groups.
    """

    config: Config
    workdir: Path
    only_scores: bool = False


class Outcome(NamedTuple):
    """Final logits [n, K] by split, number of skipped steps, error if diverged."""

    logits: dict[str, np.ndarray]
    skipped: int
    error: str | None


@dataclass(frozen=True)
class Session:
    """Everything that stays constant while the trials of a task train together.

    Attributes:
        tasks: the data of each trial; heads on features have tasks of their own, all others share one.
        trials: T runs that differ only in traced settings, and in their tasks.
        schedules: the schedule of each trial; they differ only in warm-up and deferred re-weighting.
        checkpoints: the checkpoints of each trial.
        spec: the static parts of the training program.
        feed: the training data on the devices.
        keys: the random key of each trial.
        hyper: hyper-parameters [T, ...] and `key` [T] on the devices.
    """

    tasks: Sequence[Task]
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
    tasks: Sequence[Task], trials: Sequence[Trial], models: Sequence[Network], mesh: Mesh
) -> tuple[list[Outcome], dict[str, Any]]:
    """Train all trials as one program, or resume them from the same step.

    Args:
        tasks: the data of each trial to train and evaluate on, as in Session.
        trials: runs that differ only in traced settings, and in their tasks.
        models: the network of each trial before training.
        mesh: the devices that share the trials.

    Returns:
        The outcome of each trial, and the timing that all of them share.
    """
    session, state, status = open_session(tasks, trials, models, mesh)
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
    tasks: Sequence[Task], trials: Sequence[Trial], models: Sequence[Network], mesh: Mesh
) -> tuple[Session, TrainState, Status]:
    """Restore the trials and put their states and data on the devices; see `train`."""
    config, shared, by_trial = trials[0].config, replicated(mesh), trial_sharded(mesh)
    schedules = [
        make_schedule(trial.config, task.examples_per_epoch(config)) for task, trial in zip(tasks, trials, strict=True)
    ]
    checkpoints = [Checkpoints(trial.workdir / "checkpoints") for trial in trials]
    graphs, states = zip(*(init_state(model, config.train.optimizer) for model in models), strict=True)
    restored = [files.restore(state, shared) for files, state in zip(checkpoints, states, strict=True)]
    states, seconds, skipped = zip(*restored, strict=True)

    keys = [jax.random.key(trial.config.seed) for trial in trials]
    spec = training_program(
        config, tasks[0], graphs[0], states[0], keys=keys, mesh=mesh, platform=jax.default_backend()
    )
    augmentations = make_augmentation([trial.config for trial in trials], tasks[0])
    hypers = [
        make_hyper(trial.config, schedule, task.class_stats(trial.config.loss), augmentation)
        for task, trial, schedule, augmentation in zip(tasks, trials, schedules, augmentations, strict=True)
    ]
    session = Session(
        tasks=tasks,
        trials=trials,
        schedules=schedules,
        checkpoints=checkpoints,
        spec=spec,
        feed=make_feed(config, tasks, schedules[0], mesh, keys),
        keys=keys,
        hyper=put(stack(hypers), by_trial),
        key=put(jnp.stack(keys), by_trial),
    )
    state = put(stack([spec.layout.flatten(state) for state in states]), by_trial)
    return session, state, Status(max(seconds), np.array(skipped))


def make_feed(
    config: Config, tasks: Sequence[Task], schedule: TrainSchedule, mesh: Mesh, keys: Sequence[jax.Array]
) -> DeviceFeed | StreamFeed:
    """Put the training data on the devices, or stream it if it is too large.

    Args:
        config: gives the placement, `data.placement`.
        tasks: the data of each trial.
        schedule: the steps that read the data.
        mesh: the devices.
        keys: the random key of each trial, from which its batches are drawn.
    """
    host, by_trial = host_data(tasks[0].inputs), config.model.name in FROZEN
    examples = stacked(tasks, schedule.examples_per_epoch) if by_trial else tasks[0].examples
    if streams(config.data.placement, host, mesh.shape[AXIS], device_memory()):
        return StreamFeed(host, examples, schedule, mesh, keys)
    return DeviceFeed(host, examples, schedule, mesh)


def compile_steps(session: Session, state: TrainState) -> tuple[Callable, float]:
    """The compiled `(state, step, count) -> (state, Totals)`, and its compile time."""
    shared = replicated(session.spec.mesh)
    started = time.perf_counter()
    step = min(int(np.asarray(state.step)[0]), session.schedule.total_steps - 1)
    arguments = put(np.int32(1), shared), session.feed.at(step), session.hyper, session.key
    habits = session.spec.habits
    hashable = session.spec.by_trial and habits.rates is habits.decays is habits.heads is None
    make = run_steps_of_heads if hashable else make_run_steps
    compiled = make(session.spec).lower(state, *arguments).compile()
    compile_s = time.perf_counter() - started
    wait_for_all("the program")  # a process gives up if the others join its first call half a minute late

    def run_steps(state, step, count):
        return compiled(state, put(np.int32(count), shared), session.feed.at(step), session.hyper, session.key)

    return run_steps, compile_s


def make_predict_split(session: Session) -> Callable[[TrainState, str], list[np.ndarray]]:
    """`(state, split) -> logits [n, K] of each trial`, scaled as in its loss."""
    tasks, spec, inputs = session.tasks, session.spec, session.tasks[0].inputs
    splits = {split: [task.dataset.splits[split] for task in tasks] for split in ("val", "test")}
    longest = {split: max(map(len, indices)) for split, indices in splits.items()}
    # The batch size is a multiple of the number of devices that share a batch.
    size = spec.shards * -(-min(_EVAL_BATCH, max(longest.values())) // spec.shards)
    batches = {
        split: np.stack([in_batches(np.resize(of_trial, longest[split]), size) for of_trial in indices])
        for split, indices in splits.items()
    }
    if not spec.by_trial:
        batches = {split: of_trials[0] for split, of_trials in batches.items()}
    tokens = 0
    if isinstance(inputs, Tokens):
        lengths = [inputs.lengths[indices].reshape(-1, size // spec.shards) for indices in batches.values()]
        tokens = max(int(of_split.sum(axis=1).max()) for of_split in lengths)
    how = {"by_trial": spec.by_trial, "in_turn": spec.in_turn, "compiler_options": spec.compiler_options}
    predict = make_predict(spec.graph, make_prepare(tasks[0], tokens), spec.mesh, spec.layout, **how)
    losses = [trial.config.loss for trial in session.trials]
    stats = [task.class_stats(loss) for loss, task in zip(losses, tasks, strict=True)]

    def predict_split(state: TrainState, split: str) -> list[np.ndarray]:
        chunks = session.feed.eval_chunks(batches[split])
        logits = np.concatenate([predict(state, inputs, indices) for inputs, indices in chunks], axis=1)
        scaled = []
        for task, loss, of_task, of_trial in zip(tasks, losses, stats, logits, strict=True):
            of_classes = of_trial[: len(task.dataset.splits[split]), : task.regrouping.num_pseudo_classes]
            scaled.append(np.asarray(scale_logits(loss, of_task, of_classes)))
        return scaled

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
    tasks, spec = session.tasks, session.spec
    aggregations = [trial.config.regroup.aggregate for trial in session.trials]
    member = jax.jit(
        lambda state, i: spec.layout.unflatten(jax.tree.map(lambda x: x[i], state)),
        out_shardings=replicated(spec.mesh),
    )

    def evaluate(state: TrainState) -> list[dict[str, float] | None]:
        return [validate(*trial) for trial in zip(tasks, predict(state, "val"), aggregations, strict=True)]

    def save(state: TrainState, status: Status) -> None:
        for i, checkpoints in enumerate(session.checkpoints):
            if i not in status.diverged and (status.stop or not session.trials[i].only_scores):
                checkpoints.save(member(state, np.int32(i)), status.train_s, int(status.skipped[i]))

    def log(i: int, row: dict[str, Any]) -> None:
        if is_first_process():
            trackers[i].log(row)

    def on_nonfinite(i: int, state: TrainState, fault: Fault) -> str:
        trial, task, schedule = session.trials[i], tasks[i], session.schedules[i]
        pool, size = task.pool, None
        if spec.by_trial:
            *_, (pool,), (size,) = stacked([task], schedule.examples_per_epoch)
        indices = task.indices[faults.batch_at(session.keys[i], fault.step, pool, schedule, size)]
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
