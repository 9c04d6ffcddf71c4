"""Steps that are not finite: what the program makes of them, and what a training leaves and tells."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.data import Dataset
from rgjax.losses import LOSSES, cross_entropy
from rgjax.regroup import Regrouping
from rgjax.training import trainer
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.optimizer import cosine_decay
from rgjax.training.program import draw_epoch, init_state
from rgjax.training.trainer import Task, Trial
from tests.training import test_program
from tests.training.test_feed import dense, images, tokens
from tests.training.test_program import BATCH, KEY, assert_same_bits, copy, one, program

ROWS, BAD = 32, 21  # of four steps an epoch one holds the bad row


def infinite_loss(logits, labels):
    """Infinite for rows of class 2, with a gradient that is finite."""
    return cross_entropy(logits, labels) + jnp.where(labels == 2, jnp.inf, 0.0)


def infinite_gradient(logits, labels):
    """Finite, but for its gradient for rows of class 2."""
    zero = (logits - jax.lax.stop_gradient(logits)).sum(axis=1)
    return cross_entropy(logits, labels) + jnp.sqrt(jnp.where(labels == 2, zero, 1.0))


def with_one_bad_row(data, step=2):
    """The data with a single row of class 2, which that step of the first epoch is trained on."""
    row = draw_epoch(KEY[0], jnp.int32(0), data.pool, ROWS // BATCH, BATCH)[step, BATCH - 1]
    return data._replace(labels=(data.labels % 2).at[row].set(2))


@pytest.fixture(scope="module")
def prepared():
    """As the program's own tests have it, but for a network that compiles in no time."""
    _, _, data, hyper = test_program.setup()
    graph, state = init_state(dense()[0], "sgd")
    return graph, one(state), data._replace(inputs=jnp.asarray(images()[:40])), hyper


@pytest.mark.parametrize("loss", [infinite_loss, infinite_gradient])
def test_a_step_that_is_not_finite_changes_nothing_and_ends_all(prepared, loss):
    graph, state, data, hyper = prepared
    run, data = program(graph, loss), with_one_bad_row(data)
    before, sound = run(copy(state), jnp.int32(2), data, hyper, KEY)
    assert (sound.left_out.item(), sound.first.item()) == (0, -1)
    after, totals = run(copy(state), jnp.int32(4), data, hyper, KEY)
    assert (totals.left_out.item(), totals.first.item()) == (2, 2)
    assert np.isfinite(totals.first_loss.item()) == (loss is infinite_gradient)
    assert_same_bits((totals.loss, totals.correct), (sound.loss, sound.correct))
    assert_same_bits(after.replace(step=before.step), before)
    assert after.step.item() == ~2
    again, totals = run(copy(after), jnp.int32(3), data._replace(labels=data.labels % 2), hyper, KEY)
    assert totals.left_out.item() == 3
    assert_same_bits(again, after)


def test_a_step_that_is_skipped_changes_nothing_but_the_count(prepared):
    graph, state, data, hyper = prepared
    run, data = program(graph, infinite_gradient, skip=True), with_one_bad_row(data)
    whole, totals = run(copy(state), jnp.int32(4), data, hyper, KEY)
    assert (totals.left_out.item(), totals.first.item()) == (1, 2)
    part, first = run(copy(state), jnp.int32(2), data, hyper, KEY)
    part, second = run(part.replace(step=part.step + 1), jnp.int32(1), data, hyper, KEY)
    assert_same_bits(whole, part)
    assert totals.loss.item() == pytest.approx(first.loss.item() + second.loss.item(), rel=1e-6)


def test_a_lost_trial_leaves_the_others_their_bits(prepared):
    graph, state, data, hyper = prepared
    run = program(graph)

    def train(weights):
        state_of_two, hyper_of_two, keys = jax.tree.map(lambda x: jnp.concatenate([x, x]), (state, hyper, KEY))
        return run(state_of_two, jnp.int32(3), data, hyper_of_two._replace(class_weights=weights), keys)

    sound, _ = train(jnp.ones((2, 3)))
    state, totals = train(jnp.ones((2, 3)).at[0].set(jnp.nan))
    assert totals.left_out.tolist() == [3, 0]
    assert state.step.tolist() == [~0, 3]
    assert_same_bits(*(jax.tree.map(lambda x: x[1], own) for own in (sound, state)))


def task():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64).astype(np.int32)
    labels[BAD] = 2
    rows = np.arange(64, dtype=np.int32)
    ids = np.array([f"row-{i}" for i in rows])
    train, val, test = rows[:ROWS], rows[32:48], rows[48:]
    dataset = Dataset("d", np.empty(0), labels, ("a", "b", "c"), ids, train, val, test, "")
    own, pool = labels[train], np.arange(ROWS, dtype=np.int32)
    return Task(dataset, images()[:64], train, own, pool, Regrouping.identity(own, 3), own, None, None)


def train(folder, **changes):
    settings = {"train.batch_size": BATCH, "train.steps": 12, "train.eval_steps": 4, "train.lr": 0.1, "trackers": ""}
    config = method_config("ce", settings | {f"train.{name}": value for name, value in changes.items()})
    return trainer.train(task(), [Trial(config, folder)], dense())


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder):
    checkpoints = Checkpoints(folder)
    state, *_ = checkpoints.restore(init_state(dense()[0], "sgd")[1])
    checkpoints.close()
    return state


@pytest.fixture
def infinite(monkeypatch):
    monkeypatch.setattr(trainer, "loss_of", lambda config: replace(LOSSES["ce"], function=infinite_loss))


def test_the_run_stops_with_the_state_before_the_step_and_goes_on_by_skipping_it(infinite, tmp_path):
    (text,) = train(tmp_path, steps_per_call=3).lost.values()
    told = json.loads((tmp_path / "debug" / "debug.json").read_text())
    step = told["step"]
    assert told["loss"] == "inf"
    assert "row-21" in told["ids"]
    assert told["rows"] == [int(name.removeprefix("row-")) for name in told["ids"]]
    rate = float(cosine_decay(jnp.int32(step), peak=np.float32(0.1), warmup_steps=0, total_steps=12))
    assert told["learning_rate"] == pytest.approx(rate)
    for part in (f"the loss is not finite at step {step} ", f"learning rate {rate:.3g}, rows {told['ids'][0]}, ",
                 f"{tmp_path / 'debug'}", "--config.train.on_nan=skip"):  # fmt: skip
        assert part in text
    assert len(text.splitlines()) == 1

    assert step > 0
    train(tmp_path / "whole", checkpoint_steps=step)  # it is lost at that step too, and has saved what came before
    debug, before = saved(tmp_path / "debug"), saved(tmp_path / "whole" / "checkpoints")
    assert int(debug.step) == step
    for ours, theirs in zip(jax.tree.leaves(debug), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    trained = train(tmp_path / "whole", checkpoint_steps=step, on_nan="skip")
    again = train(tmp_path / "skipped", on_nan="skip")
    assert (trained.lost, trained.skipped, again.skipped) == ({}, [3], [3])
    assert [row["skipped_steps"] for row in rows_of(tmp_path / "skipped")] == [1, 1, 1]
    for part in ("val", "test"):
        assert np.isfinite(trained.logits[0][part]).all()
        np.testing.assert_array_equal(trained.logits[0][part], again.logits[0][part])


def test_a_run_that_skips_every_step_stops(monkeypatch, tmp_path):
    def all_infinite(logits, labels):
        return infinite_loss(logits, labels) / 0.0

    monkeypatch.setattr(trainer, "loss_of", lambda config: replace(LOSSES["ce"], function=all_infinite))
    (text,) = train(tmp_path, on_nan="skip").lost.values()
    assert "the loss is not finite at step 0 and in the 3 steps after it" in text
    assert "on_nan" not in text
    assert saved(tmp_path / "debug").step == 0
    assert not (tmp_path / "metrics.jsonl").exists()


def test_sentences_stop_by_the_same_fault(infinite, tmp_path):
    """With Adam, whose update is another branch."""
    inputs = jax.tree.map(lambda x: x[:64], tokens())
    config = method_config("ce", {"train.batch_size": BATCH, "train.steps": 4, "train.optimizer": "adamw",
                                  "model.name": "bert", "trackers": ""})  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        trained = trainer.train(replace(task(), inputs=inputs), [Trial(config, tmp_path)], dense(50))
    told = json.loads((tmp_path / "debug" / "debug.json").read_text())
    assert f"the loss is not finite at step {told['step']} " in trained.lost[0]
    assert "row-21" in told["ids"]


def test_skipped_steps_are_counted_across_an_interruption(infinite, monkeypatch, tmp_path):
    """The checkpoint lies between two rows."""
    whole = train(tmp_path / "whole", on_nan="skip").skipped
    evaluate, calls = trainer.validate, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(trainer, "validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", on_nan="skip", checkpoint_steps=7)
    monkeypatch.setattr(trainer, "validate", evaluate)
    assert saved(tmp_path / "cut" / "checkpoints").step == 7
    assert train(tmp_path / "cut", on_nan="skip", checkpoint_steps=7).skipped == whole == [3]


@pytest.mark.parametrize("calls", [1, 2])
def test_outputs_that_are_not_finite_are_no_result(calls, monkeypatch, tmp_path):
    """The loss was finite; the last update, or a row of the test set, is not. Validation comes first, then the test."""
    make = trainer.make_predict

    def make_predict(*how):
        predict, seen = make(*how), []

        def infinite(*rows):
            seen.append(1)
            return predict(*rows) + np.float32(np.inf if len(seen) >= calls else 0)

        return infinite

    monkeypatch.setattr(trainer, "make_predict", make_predict)
    trained = train(tmp_path, steps=1)
    assert "the network's outputs are not finite after step 1" in trained.lost[0]
    assert (saved(tmp_path / "checkpoints").step == 1) == (calls == 2)
