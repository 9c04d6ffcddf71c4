"""The training loop: calls the device until the last step; evaluates, saves and reports in between."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.console import progress
from rgjax.training.program import Totals, TrainState, draw_epoch

_CALL_SECONDS = 2.0  # long enough that calls cost nothing, short enough to watch, and to end two and save in 10 s


@dataclass(frozen=True)
class TrainSchedule:
    """The lengths of a training, in steps; `steps_per_call` None stands for as many as take a few seconds. The devices
    hold the inputs of `steps_per_window` steps of an epoch at a time; None stands for all of them."""

    total_steps: int
    steps_per_epoch: int
    steps_per_call: int | None
    warmup: int
    drw_start: int | None
    eval_every: int
    checkpoint_every: int
    batch_size: int
    steps_per_window: int | None = None

    def next_stop(self, step: int) -> int:
        """Where a call that starts at `step` must end: the next window, epoch, evaluation or checkpoint at the
        latest."""
        marks = (self.steps_per_epoch, self.eval_every, self.checkpoint_every)
        window, within = self.steps_per_window or self.steps_per_epoch, step % self.steps_per_epoch
        end_of_window = step - within + (within // window + 1) * window
        return min(self.total_steps, end_of_window, *((step // mark + 1) * mark for mark in marks))


def largest_batch(sizes: np.ndarray, pool: np.ndarray, key: jax.Array, plan: TrainSchedule, *, devices: int = 1) -> int:
    """The largest sum of `sizes` [N] (tokens of the training rows, say) in any device's part of any batch that a
    training will draw."""
    epochs = -(-plan.total_steps // plan.steps_per_epoch)

    @jax.jit
    def largest(sizes, pool, key):
        def of_epoch(epoch):
            rows = draw_epoch(key, epoch, pool, plan.steps_per_epoch, plan.batch_size)
            return sizes[rows.reshape(plan.steps_per_epoch, devices, -1)].sum(axis=2).max()

        return jax.lax.map(of_epoch, jnp.arange(epochs, dtype=jnp.int32)).max()

    return int(largest(sizes, pool, key))


class Fault(NamedTuple):
    """The first of `steps` steps in a row whose loss or gradient was not finite, with its loss; whether they were
    `skipped`."""

    step: int
    loss: float
    steps: int = 1
    skipped: bool = False


def outputs_lost(step: int) -> str:
    return f"the network's outputs are not finite after step {step}, though its loss was: lower config.train.lr"


def fit(
    run_steps: Callable[[TrainState, int, int], tuple[TrainState, Totals]],
    state: TrainState,
    plan: TrainSchedule,
    *,
    train_s: float,
    skipped: np.ndarray,
    evaluate: Callable[[TrainState], list[dict[str, float] | None]],
    save: Callable[[TrainState, float, np.ndarray, set[int]], None],
    log: Callable[[int, dict], None],
    lose: Callable[[int, TrainState, Fault], str],
    skip: bool = False,
    preempted: Callable[[], Callable[[], bool]] = lambda: lambda: False,
) -> tuple[TrainState, float, np.ndarray, dict[int, str]]:
    """Train the trials of `state` to the plan's end; returns the last state, the seconds spent in steps alone, how many
    steps of each trial were skipped, `skipped` [T] of them before, and what was wrong with each that is lost.

    `run_steps(state, step, count)` trains for `count` steps from `step` on, where the state stands.
    `log(trial, row)` receives a row of every trial at each evaluation: step, epoch, the mean loss and accuracy (on
    pseudo-labels, where there are any) since the last row, and what `evaluate` found. A trial is lost by a step whose
    loss or gradient is not finite; if such steps are to `skip`, by as many as there are from one row to the next;
    and by an evaluation that finds None.
    `lose(trial, state, fault)` tells what was wrong, the state being that before the fault. What is lost is neither
    logged nor, by `save(state, train_s, skipped, lost)`, to be saved; when all is lost, training ends. It is saved and
    ends early where what `preempted()` gave as a call of the device began is true when that call has arrived.
    """
    step = arrived = int(np.asarray(state.step)[0])
    trials = len(state.step)
    loss_sum, correct, left_out, since = np.zeros(trials), np.zeros(trials), np.zeros(trials, int), 0
    steps_per_call = plan.steps_per_call or 1
    started: list[tuple[int, Totals, Callable[[], bool]]] = []
    ends = False
    faults: dict[int, tuple[int, float]] = {}
    lost: dict[int, str] = {}

    def give_up(trial: int, steps: int = 1):
        if trial not in lost:
            lost[trial] = lose(trial, state, Fault(*faults[trial], steps, skip))

    def arrive():
        """Wait for the oldest call under way and book what it found."""
        nonlocal arrived, loss_sum, correct, left_out, since, skipped, train_s, steps_per_call, clock, ends
        count, totals, is_preempted = started.pop(0)
        found = Totals(*map(np.asarray, jax.device_get(totals)))
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        train_s += seconds
        steps_per_call = plan.steps_per_call or max(1, int(_CALL_SECONDS * count / seconds))
        arrived, ends = arrived + count, is_preempted()
        loss_sum, correct, since = loss_sum + found.loss, correct + found.correct, since + count
        left_out, skipped = left_out + found.left_out, skipped + found.left_out
        for trial in np.flatnonzero(found.left_out).tolist():
            faults.setdefault(trial, (int(found.first[trial]), float(found.first_loss[trial])))
            if not skip:
                give_up(trial)
        sound = [trial for trial in range(trials) if trial not in lost]
        taken = (count - found.left_out[sound]).sum()
        shown = f"{found.loss[sound].sum() / taken:.3f}" if taken else "not finite"
        bar.set_postfix_str(
            f"epoch {arrived / plan.steps_per_epoch:.1f}, loss {shown}, "
            f"{trials * count * plan.batch_size / seconds:.0f} examples/s"
            + (f", {skipped.sum()} steps skipped" if skip and skipped.any() else ""),
            refresh=False,
        )
        bar.update(count)

    with progress(what="train", total=plan.total_steps, unit="step", done=step) as bar:
        clock = time.perf_counter()
        while step < plan.total_steps and len(lost) < trials and not ends:
            count = min(steps_per_call, plan.next_stop(step) - step)
            with jax.transfer_guard("disallow"):
                state, totals = run_steps(state, step, count)
            started.append((count, totals, preempted()))
            step += count
            # The device has its next call before the host asks for the last one's figures.
            if len(started) > 1:
                arrive()
            evaluates = step % plan.eval_every == 0 or step == plan.total_steps
            saves = step % plan.checkpoint_every == 0 or step == plan.total_steps
            if evaluates or saves or ends:
                arrive()
            if evaluates:
                for trial in np.flatnonzero(left_out == since).tolist():
                    give_up(trial, since)
            if len(lost) == trials:
                break
            saves |= ends
            if evaluates and not ends:  # it may take longer than there is left
                for trial, found in enumerate(evaluate(state)):
                    if found is None:
                        lost.setdefault(trial, outputs_lost(step))
                    if found is None or trial in lost:
                        continue
                    taken = since - left_out[trial]
                    row = {
                        "step": step,
                        "epoch": step / plan.steps_per_epoch,
                        "train_loss": loss_sum[trial] / taken,
                        "train_accuracy": correct[trial] / (taken * plan.batch_size),
                        "train_s": round(train_s, 3),
                    }
                    log(trial, row | ({"skipped_steps": int(left_out[trial])} if skip else {}) | found)
                loss_sum, correct, left_out, since = np.zeros(trials), np.zeros(trials), np.zeros(trials, int), 0
                faults.clear()
            if saves:
                save(state, train_s, skipped, set(lost))
            if evaluates or saves:
                clock = time.perf_counter()
    return state, train_s, skipped, lost
