"""The training loop: device calls, evaluations, checkpoints and logs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from rgjax.console import progress
from rgjax.sharding import in_any_process
from rgjax.training.program import Totals, TrainState

_CALL_SECONDS = 2.0  # hides the cost of a call; two calls and a checkpoint still end within 10 s of SIGTERM


@dataclass(frozen=True)
class TrainSchedule:
    """The schedule of a training run, in steps.

    Attributes:
        total_steps: length of training.
        steps_per_epoch: length of an epoch; each epoch is a new draw from the sampler's pool.
        steps_per_call: length of a device call; None: about two seconds.
        warmup: steps over which the learning rate rises.
        drw_start: the first step with deferred class weights, if any.
        eval_every: steps between evaluations.
        checkpoint_every: steps between checkpoints.
        batch_size: examples per step.
        checkpoint_seconds: least seconds of training before a checkpoint, except for the last.
        steps_per_chunk: length of a chunk, whose inputs the devices hold at a time; None: an epoch.
    """

    total_steps: int
    steps_per_epoch: int
    steps_per_call: int | None
    warmup: int
    drw_start: int | None
    eval_every: int
    checkpoint_every: int
    batch_size: int
    checkpoint_seconds: float = 0.0
    steps_per_chunk: int | None = None

    @property
    def examples_per_epoch(self) -> int:
        """How many examples an epoch draws."""
        return self.steps_per_epoch * self.batch_size

    def next_stop(self, step: int) -> int:
        """The last step that a call from `step` may reach.

        A call ends where a chunk or an epoch ends, and at an evaluation or a checkpoint.
        """
        marks = (self.steps_per_epoch, self.eval_every, self.checkpoint_every)
        chunk, within = self.steps_per_chunk or self.steps_per_epoch, step % self.steps_per_epoch
        end_of_chunk = step - within + (within // chunk + 1) * chunk
        return min(self.total_steps, end_of_chunk, *((step // mark + 1) * mark for mark in marks))

    def evaluates_at(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.total_steps

    def saves_at(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.total_steps


class Fault(NamedTuple):
    """The first of `steps` consecutive non-finite steps, and its loss."""

    step: int
    loss: float
    steps: int = 1
    skipped: bool = False


def nonfinite_logits(step: int) -> str:
    return f"non-finite logits after step {step} (the loss was finite); lower config.train.lr"


@dataclass
class Status:
    """The progress of a training run.

    Attributes:
        train_s: seconds spent in steps.
        skipped: number of skipped steps of each trial [T].
        diverged: the error message of each trial that has diverged.
        stop: whether the run was preempted.
    """

    train_s: float
    skipped: np.ndarray
    diverged: dict[int, str] = field(default_factory=dict)
    stop: bool = False


@dataclass(frozen=True)
class Callbacks:
    """Functions that `fit` calls between device calls.

    Attributes:
        evaluate: returns the validation metrics of each trial, or None if its logits are not finite.
        save: writes the checkpoints of the trials that have not diverged.
        log: `(trial, row)`: records a row of metrics.
        on_nonfinite: `(trial, state before the fault, fault)`: returns the error message of a diverged trial.
        preempted: asks all processes whether to stop, without waiting; its result waits for the answer.
        forecast: gets the seconds that the rest of training will take, once, after the first calls.
    """

    evaluate: Callable[[TrainState], list[dict[str, float] | None]]
    save: Callable[[TrainState, Status], None]
    log: Callable[[int, dict[str, Any]], None]
    on_nonfinite: Callable[[int, TrainState, Fault], str]
    preempted: Callable[[], Callable[[], bool]] = lambda: lambda: False
    forecast: Callable[[float], None] = lambda seconds: None


class Pending(NamedTuple):
    """A device call in flight.

    Attributes:
        steps: number of its steps.
        totals: sums over its steps [T].
        preempted: waits for the answer whether to stop after this call.
    """

    steps: int
    totals: Totals
    preempted: Callable[[], bool]

    def wait(self) -> Totals:
        return Totals(*map(np.asarray, jax.device_get(self.totals)))


class Meter:
    """Sums each trial's metrics since its last row, and keeps its first fault."""

    def __init__(self, trials: int, schedule: TrainSchedule):
        self._trials, self._schedule = trials, schedule
        self.reset()

    def reset(self) -> None:
        self.steps, self.skipped = 0, np.zeros(self._trials, int)
        self.faults: dict[int, tuple[int, float]] = {}
        self._loss, self._correct = np.zeros(self._trials), np.zeros(self._trials)

    def add(self, count: int, totals: Totals) -> None:
        """Add a device call of `count` steps."""
        self.steps += count
        self.skipped = self.skipped + totals.skipped
        self._loss, self._correct = self._loss + totals.loss, self._correct + totals.correct
        for trial in np.flatnonzero(totals.skipped).tolist():
            self.faults.setdefault(trial, (int(totals.first[trial]), float(totals.first_loss[trial])))

    def row(self, trial: int, step: int) -> dict[str, Any]:
        """Step, epoch, and means over the steps that were not skipped."""
        taken = self.steps - self.skipped[trial]
        return {
            "step": step,
            "epoch": step / self._schedule.steps_per_epoch,
            "train_loss": self._loss[trial] / taken,
            "train_accuracy": self._correct[trial] / (taken * self._schedule.batch_size),
        }


class Pace:
    """Times device calls and chooses their length."""

    def __init__(self, steps_per_call: int | None):
        self._fixed = steps_per_call
        self.steps = steps_per_call or 1
        self.restart()

    def restart(self) -> None:
        self._since = time.perf_counter()

    def lap(self, count: int) -> float:
        """Seconds since the last call of `count` steps ended, or since the restart."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self.steps = self._fixed or max(1, int(_CALL_SECONDS * count / seconds))
        return seconds


class Monitor:
    """Handles results of device calls: metrics, diverged trials, log, progress bar."""

    def __init__(self, schedule: TrainSchedule, callbacks: Callbacks, status: Status, bar: tqdm, *, skip: bool):
        self._schedule, self._callbacks, self._bar, self._skip = schedule, callbacks, bar, skip
        self.status, self.pace = status, Pace(schedule.steps_per_call)
        self._meter = Meter(len(status.skipped), schedule)
        self._foretold = False

    @property
    def all_diverged(self) -> bool:
        return len(self.status.diverged) == len(self.status.skipped)

    def drain(self, call: Pending, state: TrainState) -> None:
        """Block on the oldest pending call and accumulate its metrics.

        `state` is the newest one, in which diverged trials are frozen.
        """
        totals = call.wait()
        seconds = self.pace.lap(call.steps)
        self.status.train_s += seconds
        self.status.stop |= call.preempted()
        self._meter.add(call.steps, totals)
        if self._skip:
            self.status.skipped = self.status.skipped + totals.skipped
        else:
            for trial in self._meter.faults:
                self._diverge(trial, state)
        self._show(call.steps, totals, seconds)
        if not self._foretold and seconds > _CALL_SECONDS / 2:  # a shorter call is mostly overhead
            self._foretold = True
            self._callbacks.forecast((self._schedule.total_steps - self._bar.n) * seconds / call.steps)

    def find_stalled(self, state: TrainState) -> None:
        """Mark trials as diverged if all their steps since the last row were skipped."""
        for trial in np.flatnonzero(self._meter.skipped == self._meter.steps).tolist():
            self._diverge(trial, state, self._meter.steps)

    def evaluate(self, state: TrainState, step: int) -> None:
        """Evaluate all trials and log a row for each that has not diverged."""
        diverged = self.status.diverged
        for trial, metrics in enumerate(self._callbacks.evaluate(state)):
            if metrics is None:
                diverged.setdefault(trial, nonfinite_logits(step))
            elif trial not in diverged:
                row = self._meter.row(trial, step) | {"train_s": round(self.status.train_s, 3)}
                skipped = {"skipped_steps": int(self._meter.skipped[trial])} if self._skip else {}
                self._callbacks.log(trial, row | skipped | metrics)
        self._meter.reset()

    def _diverge(self, trial: int, state: TrainState, steps: int = 1) -> None:
        if trial not in self.status.diverged:
            fault = Fault(*self._meter.faults[trial], steps, self._skip)
            self.status.diverged[trial] = self._callbacks.on_nonfinite(trial, state, fault)

    def _show(self, steps: int, totals: Totals, seconds: float) -> None:
        trials = len(totals.loss)
        alive = [trial for trial in range(trials) if trial not in self.status.diverged]
        taken = (steps - totals.skipped[alive]).sum()
        loss = f"{totals.loss[alive].sum() / taken:.3f}" if taken else "not finite"
        self._bar.set_postfix_str(
            f"epoch {(self._bar.n + steps) / self._schedule.steps_per_epoch:.1f}, loss {loss}, "
            f"{trials * steps * self._schedule.batch_size / seconds:.0f} examples/s"
            + (f", {self.status.skipped.sum()} steps skipped" if self.status.skipped.any() else ""),
            refresh=False,
        )
        self._bar.update(steps)


def fit(
    run_steps: Callable[[TrainState, int, int], tuple[TrainState, Totals]],
    state: TrainState,
    schedule: TrainSchedule,
    callbacks: Callbacks,
    status: Status,
    *,
    skip: bool = False,
) -> TrainState:
    """Train the trials of `state` to the end of the schedule; return the last state.

    A trial diverges if a loss or gradient is not finite (with `skip`: in all steps since its last row), or if its
    logits are not finite at an evaluation. A diverged trial is no longer logged or saved. Training ends early when
    all trials have diverged, or after a checkpoint when the run is preempted.

    Args:
        run_steps: `(state, step, count)`: trains for `count` steps from `step`, the current step of the state.
        state: the initial or restored state; donated.
        schedule: when to evaluate and to save.
        callbacks: how to evaluate, save and log.
        status: progress so far; updated in place.
        skip: whether to skip steps with a non-finite loss or gradient.
    """
    step, pending, saved_s = int(np.asarray(state.step)[0]), None, status.train_s
    with progress(what="train", total=schedule.total_steps, unit="step", done=step) as bar:
        monitor = Monitor(schedule, callbacks, status, bar, skip=skip)
        while step < schedule.total_steps and not monitor.all_diverged and not status.stop:
            count = min(monitor.pace.steps, schedule.next_stop(step) - step)
            with jax.transfer_guard("disallow"):
                state, totals = run_steps(state, step, count)
            step += count
            previous, pending = pending, Pending(count, totals, callbacks.preempted())
            # The next call is already queued on the device while the host waits for the totals of the previous one.
            if previous is not None:
                monitor.drain(previous, state)
            evaluates, saves = schedule.evaluates_at(step), schedule.saves_at(step)
            if not (evaluates or saves or status.stop):
                continue

            monitor.drain(pending, state)
            pending = None
            if evaluates:
                monitor.find_stalled(state)
            if evaluates and not monitor.all_diverged and not status.stop:  # preemption leaves no time for it
                monitor.evaluate(state, step)
            if saves and step < schedule.total_steps:  # the clocks of processes differ
                saves = in_any_process(status.train_s - saved_s >= schedule.checkpoint_seconds)()
            if (saves or status.stop) and not monitor.all_diverged:
                callbacks.save(state, status)
                saved_s = status.train_s
            monitor.pace.restart()
    return state
