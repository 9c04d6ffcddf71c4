from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.errors import UserError
from rgjax.training.loop import Plan, fit, largest_batch
from rgjax.training.program import Totals, TrainState, draw_epoch


def at(step: int) -> TrainState:
    return TrainState({}, {}, (), jnp.int32(step))


def run(plan, start=0, loss=2.0):
    calls, saved, rows = [], [], []

    def run_steps(state, count):
        calls.append((int(state.step), count))
        with jax.transfer_guard("allow"):  # this stand-in is made on the host
            return at(int(state.step) + count), Totals(jnp.float32(loss * count), jnp.int32(count))

    state, _ = fit(
        run_steps,
        at(start),
        plan,
        train_s=0.0,
        evaluate=lambda state: {"val_ba": 0.5},
        save=lambda state, train_s: saved.append(int(state.step)),
        log=rows.append,
    )
    return int(state.step), calls, saved, rows


PLAN = Plan(
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
    last, calls, saved, rows = run(PLAN)
    assert last == 23
    assert calls == [(0, 4), (4, 3), (7, 3), (10, 4), (14, 4), (18, 2), (20, 1), (21, 2)]
    assert saved == [7, 14, 21, 23]
    assert [row["step"] for row in rows] == [10, 20, 23]
    assert rows[0]["train_loss"] == pytest.approx(2.0)
    assert rows[0]["train_accuracy"] == pytest.approx(0.5)
    assert rows[0]["val_ba"] == 0.5


def test_calls_lengthen_to_fill_their_time():
    assert run(replace(PLAN, steps_per_call=None))[1][:4] == [(0, 1), (1, 1), (2, 5), (7, 3)]


def test_a_resumed_run_makes_the_same_stops_from_where_it_was():
    _, calls, saved, _ = run(PLAN, start=14)
    assert calls == [(14, 4), (18, 2), (20, 1), (21, 2)]
    assert saved == [21, 23]


def test_figures_are_fetched_when_the_next_call_is_under_way():
    events = []

    class Later:
        def __init__(self, at):
            self.at = at

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.at}")
            return np.zeros((), dtype)

    def run_steps(state, count):
        with jax.transfer_guard("allow"):
            step = int(state.step)
            events.append(f"call {step}")
            return at(step + count), Totals(Later(step), Later(step))

    fit(run_steps, at(0), PLAN, train_s=0.0, evaluate=lambda state: {}, save=lambda *_: None, log=lambda row: None)
    order = [event for i, event in enumerate(events) if event not in events[:i]]
    assert order[:5] == ["call 0", "call 4", "fetch 0", "fetch 4", "call 7"]  # a checkpoint is due at 7


def test_a_finished_state_trains_no_more():
    assert run(PLAN, start=23)[1:] == ([], [], [])


def test_a_loss_that_is_not_finite_ends_the_run_with_a_hint():
    with pytest.raises(UserError, match=r"between steps 0 and 4: lower config\.train\.lr"):
        run(PLAN, loss=float("nan"))


def test_the_largest_batch_is_that_of_the_epochs_drawn():
    sizes, pool, key = np.arange(32, dtype=np.int32) ** 2, np.arange(32, dtype=np.int32), jax.random.key(3)
    plan = replace(PLAN, total_steps=10, steps_per_epoch=4, batch_size=8)
    drawn = [np.asarray(draw_epoch(key, epoch, jnp.asarray(pool), 4, 8)) for epoch in range(3)]
    assert all(len(np.unique(order)) == 32 for order in drawn)
    assert largest_batch(sizes, pool, key, plan) == max(sizes[order].sum(axis=1).max() for order in drawn)
