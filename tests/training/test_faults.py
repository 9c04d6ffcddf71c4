"""Steps that are not finite: what a training leaves, how it goes on, and its error message."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.losses import LOSSES
from rgjax.training import setup, trainer
from rgjax.training.optimizer import cosine_decay
from tests.support.programs import Dense, assert_same_bits, infinite_loss, tokens
from tests.support.trainings import interrupted_at_second_evaluation, rows_of, saved, small_task, train


@pytest.fixture
def infinite(monkeypatch):
    monkeypatch.setattr(setup, "loss_of", lambda config: replace(LOSSES["ce"], function=infinite_loss))


@pytest.mark.long
def test_a_run_stops_with_the_state_before_the_step_and_continues_by_skipping_it(infinite, tmp_path):
    text = train(tmp_path, train_steps_per_call=3).error
    debug = json.loads((tmp_path / "debug" / "debug.json").read_text())
    step, ids = debug["step"], debug["ids"]
    assert debug["loss"] == "inf"
    assert "example-21" in ids
    assert debug["rows"] == [int(name.removeprefix("example-")) for name in ids]
    rate = float(cosine_decay(jnp.int32(step), peak=np.float32(0.1), warmup_steps=0, total_steps=12))
    assert debug["learning_rate"] == pytest.approx(rate)
    for part in (
        f"the loss is not finite at step {step} ",
        f"learning rate {rate:.3g}, examples {ids[0]}, ",
        f"{tmp_path / 'debug'}",
        "--config.train.on_nan=skip",
    ):
        assert part in text
    assert len(text.splitlines()) == 1

    assert step > 0
    train(tmp_path / "whole", train_checkpoint_steps=step)  # it diverges at that step too, and saved the state before
    before = saved(tmp_path / "whole" / "checkpoints")
    assert int(before.step) == step
    assert_same_bits(saved(tmp_path / "debug"), before)

    resumed = train(tmp_path / "whole", train_checkpoint_steps=step, train_on_nan="skip")
    skipped = train(tmp_path / "skipped", train_on_nan="skip")
    assert (resumed.error, resumed.skipped, skipped.skipped) == (None, 3, 3)
    assert [row["skipped_steps"] for row in rows_of(tmp_path / "skipped")] == [1, 1, 1]
    assert np.isfinite(resumed.logits["val"]).all() and np.isfinite(resumed.logits["test"]).all()
    assert_same_bits(resumed.logits, skipped.logits)


@pytest.mark.long
def test_a_run_that_skips_every_step_stops(monkeypatch, tmp_path):
    def all_infinite(logits, labels):
        return infinite_loss(logits, labels) / 0.0

    monkeypatch.setattr(setup, "loss_of", lambda config: replace(LOSSES["ce"], function=all_infinite))
    text = train(tmp_path, train_on_nan="skip").error
    assert "the loss is not finite at step 0 and in the 3 steps after it" in text
    assert "on_nan" not in text
    assert saved(tmp_path / "debug").step == 0
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.long
def test_a_run_on_sentences_stops_by_the_same_fault(infinite, tmp_path):
    """With Adam, whose update is another branch."""
    settings = {"train_steps": 4, "train_optimizer": "adamw", "model_name": "bert"}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        outcome = train(tmp_path, small_task(tokens(64)), Dense(50), **settings)
    debug = json.loads((tmp_path / "debug" / "debug.json").read_text())
    assert f"the loss is not finite at step {debug['step']} " in outcome.error
    assert "example-21" in debug["ids"]


def test_skipped_steps_are_counted_across_an_interruption(infinite, monkeypatch, tmp_path):
    """The checkpoint lies between two rows."""
    with interrupted_at_second_evaluation(monkeypatch):
        train(tmp_path, train_on_nan="skip", train_checkpoint_steps=7)
    assert saved(tmp_path / "checkpoints").step == 7
    assert train(tmp_path, train_on_nan="skip", train_checkpoint_steps=7).skipped == 3


@pytest.mark.parametrize("calls", [1, 2])
def test_nonfinite_logits_are_no_result(calls, monkeypatch, tmp_path):
    """The loss was finite; the last update, or an example of the test split, is not. Validation comes first."""
    make = trainer.make_predict

    def make_predict(*arguments, **settings):
        predict, seen = make(*arguments, **settings), []

        def infinite(*batch):
            seen.append(1)
            return predict(*batch) + np.float32(np.inf if len(seen) >= calls else 0)

        return infinite

    monkeypatch.setattr(trainer, "make_predict", make_predict)
    outcome = train(tmp_path, train_steps=1)
    assert "non-finite logits after step 1" in outcome.error
    assert (saved(tmp_path / "checkpoints").step == 1) == (calls == 2)
