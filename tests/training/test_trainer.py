"""A whole training: the same settings give the same bits, however it is cut into calls or interrupted."""

import numpy as np
import pytest

from tests.support.programs import assert_same_bits
from tests.support.trainings import interrupted_at_second_evaluation, rows_of, saved, train


def results(folder, **changes):
    """Logits, last state and rows of a training of ten steps, four an epoch."""
    outcome = train(folder, **{"train_steps": 10, "train_eval_steps": 5, **changes})
    assert outcome.error is None
    rows = [{name: value for name, value in row.items() if name != "train_s"} for row in rows_of(folder)]
    return outcome.logits, saved(folder / "checkpoints"), rows


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return results(tmp_path_factory.mktemp("once"))


def test_the_same_seed_gives_the_same_bits(expected, tmp_path):
    logits, state, _ = results(tmp_path)  # a busy machine cuts the sums of the rows into other calls
    assert_same_bits((logits, state), expected[:2])
    assert np.ptp(expected[0]["test"]) > 0


def test_another_seed_gives_other_logits(expected, tmp_path):
    assert not np.array_equal(results(tmp_path, seed=1)[0]["test"], expected[0]["test"])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_length_of_a_call_changes_no_bit(steps, expected, tmp_path):
    logits, state, rows = results(tmp_path, train_steps_per_call=steps)
    assert_same_bits((logits, state), expected[:2])
    for ours, theirs in zip(rows, expected[2], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)  # sums over other calls


def test_resume_is_bitwise_equal(expected, tmp_path, monkeypatch):
    """It is interrupted at the last evaluation, four steps after a checkpoint within an epoch."""
    with interrupted_at_second_evaluation(monkeypatch):
        results(tmp_path, train_checkpoint_steps=6)
    assert saved(tmp_path / "checkpoints").step == 6
    logits, state, rows = results(tmp_path, train_checkpoint_steps=6)
    assert_same_bits((logits, state), expected[:2])
    assert [row["step"] for row in rows] == [5, 10]


@pytest.mark.long
def test_on_nan_changes_no_bit_of_a_healthy_run(expected, tmp_path):
    assert_same_bits(results(tmp_path, train_on_nan="skip")[:2], expected[:2])
