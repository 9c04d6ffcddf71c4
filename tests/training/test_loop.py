"""The loop around the device calls, with a stand-in for the training program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.training import loop
from rgjax.training.loop import Callbacks, Fault, Status, fit
from rgjax.training.program import Totals, TrainState, draw_epoch
from rgjax.training.setup import make_schedule, max_batch_tokens
from rgjax.training.trainer import forecast
from tests.support.trainings import SCHEDULE


def state_at(step: int, trials: int = 1) -> TrainState:
    return TrainState({}, {}, (), jnp.full(trials, step, jnp.int32))


def never(trial, step):
    return False


def totals_of(losses, start, count, bad=never):
    """The totals of a call in which each step of a trial has the same loss, or is bad."""
    skipped = [[step for step in range(start, start + count) if bad(trial, step)] for trial in range(len(losses))]
    taken = [count - len(steps) for steps in skipped]
    return Totals(
        jnp.float32([loss * n for loss, n in zip(losses, taken, strict=True)]),
        jnp.int32(taken),
        jnp.int32([len(steps) for steps in skipped]),
        jnp.int32([steps[0] if steps else -1 for steps in skipped]),
        jnp.float32([float("inf") if steps else 0.0 for steps in skipped]),
    )


def run(schedule, start=0, losses=(2.0,), bad=never, skip=False, callbacks=None):
    calls, saved, rows = [], [], [[] for _ in losses]

    def run_steps(state, _, count):
        with jax.transfer_guard("allow"):  # this stand-in computes on the host
            step = int(state.step[0])
            calls.append((step, count))
            return state_at(step + count, len(losses)), totals_of(losses, step, count, bad)

    callbacks = Callbacks(
        evaluate=lambda state: [{"val_ba": 0.5}] * len(losses),
        save=lambda state, status: saved.append((int(state.step[0]), *status.diverged)),
        log=lambda trial, row: rows[trial].append(row),
        on_nonfinite=lambda trial, state, fault: fault,  # pyright: ignore[reportArgumentType]
        **callbacks or {},
    )
    status = Status(0.0, np.zeros(len(losses), int))
    state = fit(run_steps, state_at(start, len(losses)), schedule, callbacks, status, skip=skip)
    return int(state.step[0]), calls, saved, rows, status


def test_calls_cross_no_epoch_evaluation_or_checkpoint():
    last, calls, saved, (rows,), _ = run(SCHEDULE)
    assert last == 23
    assert calls == [(0, 4), (4, 3), (7, 3), (10, 4), (14, 4), (18, 2), (20, 1), (21, 2)]
    assert saved == [(7,), (14,), (21,), (23,)]
    assert [row["step"] for row in rows] == [10, 20, 23]
    assert rows[0]["train_loss"] == pytest.approx(2.0)
    assert rows[0]["train_accuracy"] == pytest.approx(0.5)
    assert rows[0]["val_ba"] == 0.5


def test_checkpoints_keep_their_distance_in_seconds(monkeypatch):
    monkeypatch.setattr(loop.Pace, "lap", lambda self, count: 3.0)
    _, _, saved, *_ = run(replace(SCHEDULE, checkpoint_seconds=10))
    assert saved == [(14,), (23,)]  # at step 7 after 6 s, at 21 after 9 more: not yet; the last one always


@pytest.mark.parametrize(
    ("changes", "seconds"), [({}, 30), ({"train.checkpoint_percent": 5.0}, 0), ({"train.checkpoint_steps": 10}, 0)]
)
def test_by_default_checkpoints_are_30_seconds_apart(changes, seconds):
    config = method_config("ce", {"train.batch_size": 10, **changes})
    assert make_schedule(config, 1000).checkpoint_seconds == seconds


def test_calls_lengthen_to_fill_their_time():
    assert run(replace(SCHEDULE, steps_per_call=None))[1][:4] == [(0, 1), (1, 1), (2, 5), (7, 3)]


def test_a_resumed_run_makes_the_same_stops():
    _, calls, saved, *_ = run(SCHEDULE, start=14)
    assert calls == [(14, 4), (18, 2), (20, 1), (21, 2)]
    assert saved == [(21,), (23,)]


def test_a_preempted_run_saves_after_the_call_in_flight_and_does_not_evaluate():
    answers = iter([False, True])
    last, calls, saved, (rows,), status = run(SCHEDULE, callbacks={"preempted": lambda: lambda: next(answers, True)})
    assert calls == [(0, 4), (4, 3)]
    assert (last, saved, rows, status.stop) == (7, [(7,)], [], True)


def test_totals_are_fetched_while_the_next_call_is_in_flight():
    events = []

    class Later:
        def __init__(self, step):
            self.step = step

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.step}")
            return np.zeros(1, dtype)

    def run_steps(state, _, count):
        with jax.transfer_guard("allow"):
            step = int(state.step[0])
            events.append(f"call {step}")
            return state_at(step + count), totals_of([1.0], step, count)._replace(loss=Later(step))

    callbacks = Callbacks(lambda state: [{}], lambda *_: None, lambda *_: None, lambda *_: "")
    fit(run_steps, state_at(0), SCHEDULE, callbacks, Status(0.0, np.zeros(1, int)))
    order = [event for i, event in enumerate(events) if event not in events[:i]]
    assert order[:5] == ["call 0", "call 4", "fetch 0", "fetch 4", "call 7"]  # a checkpoint is due at 7


def test_a_finished_state_trains_no_more():
    assert run(SCHEDULE, start=23)[1:4] == ([], [], [[]])


def test_a_step_that_is_not_finite_ends_the_run():
    last, _, saved, (rows,), status = run(SCHEDULE, bad=lambda trial, step: step >= 5)
    assert last == 7
    assert status.diverged == {0: Fault(5, float("inf"))}
    assert saved == rows == []


def test_a_step_that_is_not_finite_ends_that_trial_alone():
    bad = lambda trial, step: trial == 1 and step >= 12  # noqa: E731
    last, _, saved, rows, status = run(SCHEDULE, losses=[2.0, 3.0, 1.0], bad=bad)
    assert last == 23
    assert status.diverged == {1: Fault(12, float("inf"))}
    assert saved == [(7,), (14, 1), (21, 1), (23, 1)]
    assert [len(of_trial) for of_trial in rows] == [3, 1, 3]
    assert [of_trial[-1]["train_loss"] for of_trial in rows] == [2.0, 3.0, 1.0]


def test_skipped_steps_are_counted_and_are_in_no_mean():
    bad = lambda trial, step: trial == 1 and step % 3 == 0  # noqa: E731
    last, _, saved, rows, status = run(SCHEDULE, losses=[2.0, 1.0], bad=bad, skip=True)
    assert (last, status.diverged, status.skipped.tolist()) == (23, {}, [0, 8])
    assert saved == [(7,), (14,), (21,), (23,)]
    assert [row["skipped_steps"] for row in rows[0]] == [0, 0, 0]
    assert [row["skipped_steps"] for row in rows[1]] == [4, 3, 1]
    assert [row["train_loss"] for row in rows[1]] == [1.0, 1.0, 1.0]
    assert [row["train_accuracy"] for row in rows[1]] == [0.5, 0.5, 0.5]


def test_a_trial_diverges_when_every_step_since_its_last_row_was_skipped():
    bad = lambda trial, step: trial == 1 and 9 <= step < 20  # noqa: E731
    last, _, saved, rows, status = run(SCHEDULE, losses=[2.0, 1.0], bad=bad, skip=True)
    assert last == 23
    assert status.diverged == {1: Fault(10, float("inf"), steps=10, skipped=True)}
    assert [row["step"] for row in rows[1]] == [10]
    assert saved == [(7,), (14,), (21, 1), (23, 1)]


def test_the_token_budget_covers_every_batch_that_is_drawn():
    lengths, pool, key = np.arange(32, dtype=np.int32) ** 2, np.arange(32, dtype=np.int32), jax.random.key(3)
    schedule = replace(SCHEDULE, total_steps=10, steps_per_epoch=4, batch_size=8)
    orders = [np.asarray(draw_epoch(key, epoch, jnp.asarray(pool), 4, 8)) for epoch in range(3)]
    assert all(len(np.unique(order)) == 32 for order in orders)
    assert max_batch_tokens(lengths, pool, key, schedule) == max(lengths[order].sum(axis=1).max() for order in orders)


def test_the_rest_of_training_is_forecast_once(monkeypatch):
    monkeypatch.setattr(loop, "_CALL_SECONDS", 0.0)
    ticks = iter(range(0, 10_000, 3))  # each look at the clock is 3 s later
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(ticks))
    seconds = []
    run(SCHEDULE, start=7, callbacks={"forecast": seconds.append})
    assert seconds == [(23 - 10) * 3 / 3]  # after the first call, of three steps


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.epochs": 400}, "lower --config.train.epochs (now 400), or train a head on features in minutes by"),
        ({"train.steps": 900}, "lower --config.train.steps (now 900), or"),
        ({"model.name": "mlp"}, "lower --config.train.epochs (now 400)"),
    ],
)
def test_a_long_training_is_announced_with_the_ways_out(changes, says, caplog):
    config = method_config("ce", changes)
    with caplog.at_level("INFO", "rgjax"):
        forecast(config, 500)
        assert not caplog.messages
        forecast(config, 43_000)
    [message] = caplog.messages
    assert message.startswith(f"training will take about 12 hours; {says}")
    assert ("mlp" in message) == (config.model.name != "mlp")
