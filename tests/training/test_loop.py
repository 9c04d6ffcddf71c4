from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.training.loop import Fault, TrainSchedule, fit, largest_batch
from rgjax.training.program import Totals, TrainState, draw_epoch


def at(step: int, trials: int = 1) -> TrainState:
    return TrainState({}, {}, (), jnp.full(trials, step, jnp.int32))


def totals_of(losses, start, count, bad=lambda trial, step: False):
    """What the program finds in the steps of a call, where each step of a trial has the same loss."""
    left_out = [[step for step in range(start, start + count) if bad(trial, step)] for trial in range(len(losses))]
    taken = [count - len(steps) for steps in left_out]
    return Totals(
        jnp.float32([loss * n for loss, n in zip(losses, taken, strict=True)]),
        jnp.int32(taken),
        jnp.int32([len(steps) for steps in left_out]),
        jnp.int32([steps[0] if steps else -1 for steps in left_out]),
        jnp.float32([float("inf") if steps else 0.0 for steps in left_out]),
    )


def run(plan, start=0, losses=(2.0,), bad=lambda trial, step: False, skip=False):
    calls, saved, rows = [], [], [[] for _ in losses]

    def run_steps(state, _, count):
        with jax.transfer_guard("allow"):  # this stand-in is made on the host
            step = int(state.step[0])
            calls.append((step, count))
            return at(step + count, len(losses)), totals_of(losses, step, count, bad)

    state, _, skipped, lost = fit(
        run_steps,
        at(start, len(losses)),
        plan,
        train_s=0.0,
        skipped=np.zeros(len(losses), int),
        evaluate=lambda state: [{"val_ba": 0.5}] * len(losses),
        save=lambda state, train_s, skipped, lost: saved.append((int(state.step[0]), *lost)),
        log=lambda trial, row: rows[trial].append(row),
        lose=lambda trial, state, fault: fault,
        skip=skip,
    )
    return int(state.step[0]), calls, saved, rows, lost, skipped.tolist()


PLAN = TrainSchedule(
    total_steps=23,
    steps_per_epoch=10,
    steps_per_call=4,
    warmup=0,
    drw_start=None,
    eval_every=10,
    checkpoint_every=7,
    batch_size=2,
)


def test_calls_never_cross_an_epoch_an_evaluation_or_a_checkpoint():
    last, calls, saved, (rows,), *_ = run(PLAN)
    assert last == 23
    assert calls == [(0, 4), (4, 3), (7, 3), (10, 4), (14, 4), (18, 2), (20, 1), (21, 2)]
    assert saved == [(7,), (14,), (21,), (23,)]
    assert [row["step"] for row in rows] == [10, 20, 23]
    assert rows[0]["train_loss"] == pytest.approx(2.0)
    assert rows[0]["train_accuracy"] == pytest.approx(0.5)
    assert rows[0]["val_ba"] == 0.5


def test_calls_lengthen_to_fill_their_time():
    assert run(replace(PLAN, steps_per_call=None))[1][:4] == [(0, 1), (1, 1), (2, 5), (7, 3)]


def test_a_resumed_run_makes_the_same_stops_from_where_it_was():
    _, calls, saved, *_ = run(PLAN, start=14)
    assert calls == [(14, 4), (18, 2), (20, 1), (21, 2)]
    assert saved == [(21,), (23,)]


def test_figures_are_fetched_when_the_next_call_is_under_way():
    events = []

    class Later:
        def __init__(self, at):
            self.at = at

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.at}")
            return np.zeros(1, dtype)

    def run_steps(state, _, count):
        with jax.transfer_guard("allow"):
            step = int(state.step[0])
            events.append(f"call {step}")
            return at(step + count), totals_of([1.0], step, count)._replace(loss=Later(step))

    hooks = {"evaluate": lambda state: [{}], "save": lambda *_: None, "log": lambda *_: None, "lose": lambda *_: ""}
    fit(run_steps, at(0), PLAN, train_s=0.0, skipped=np.zeros(1, int), **hooks)
    order = [event for i, event in enumerate(events) if event not in events[:i]]
    assert order[:5] == ["call 0", "call 4", "fetch 0", "fetch 4", "call 7"]  # a checkpoint is due at 7


def test_a_finished_state_trains_no_more():
    assert run(PLAN, start=23)[1:4] == ([], [], [[]])


def test_a_step_that_is_not_finite_ends_the_run():
    last, _, saved, (rows,), lost, _ = run(PLAN, bad=lambda trial, step: step >= 5)
    assert last == 7
    assert lost == {0: Fault(5, float("inf"))}
    assert saved == rows == []


def test_a_step_that_is_not_finite_costs_that_trial_alone():
    bad = lambda trial, step: trial == 1 and step >= 12  # noqa: E731
    last, _, saved, rows, lost, _ = run(PLAN, losses=[2.0, 3.0, 1.0], bad=bad)
    assert last == 23
    assert lost == {1: Fault(12, float("inf"))}
    assert saved == [(7,), (14, 1), (21, 1), (23, 1)]
    assert [len(of_trial) for of_trial in rows] == [3, 1, 3]
    assert [of_trial[-1]["train_loss"] for of_trial in rows] == [2.0, 3.0, 1.0]


def test_skipped_steps_are_counted_and_are_in_no_mean():
    bad = lambda trial, step: trial == 1 and step % 3 == 0  # noqa: E731
    last, _, saved, rows, lost, skipped = run(PLAN, losses=[2.0, 1.0], bad=bad, skip=True)
    assert (last, lost, skipped) == (23, {}, [0, 8])
    assert saved == [(7,), (14,), (21,), (23,)]
    assert [row["skipped_steps"] for row in rows[0]] == [0, 0, 0]
    assert [row["skipped_steps"] for row in rows[1]] == [4, 3, 1]
    assert [row["train_loss"] for row in rows[1]] == [1.0, 1.0, 1.0]
    assert [row["train_accuracy"] for row in rows[1]] == [0.5, 0.5, 0.5]


def test_a_trial_whose_every_step_since_the_last_row_was_skipped_is_lost():
    bad = lambda trial, step: trial == 1 and 9 <= step < 20  # noqa: E731
    last, _, saved, rows, lost, _ = run(PLAN, losses=[2.0, 1.0], bad=bad, skip=True)
    assert last == 23
    assert lost == {1: Fault(10, float("inf"), steps=10, skipped=True)}
    assert [row["step"] for row in rows[1]] == [10]
    assert saved == [(7,), (14,), (21, 1), (23, 1)]


def test_the_largest_batch_is_that_of_the_epochs_drawn():
    sizes, pool, key = np.arange(32, dtype=np.int32) ** 2, np.arange(32, dtype=np.int32), jax.random.key(3)
    plan = replace(PLAN, total_steps=10, steps_per_epoch=4, batch_size=8)
    drawn = [np.asarray(draw_epoch(key, epoch, jnp.asarray(pool), 4, 8)) for epoch in range(3)]
    assert all(len(np.unique(order)) == 32 for order in drawn)
    assert largest_batch(sizes, pool, key, plan) == max(sizes[order].sum(axis=1).max() for order in drawn)
