"""A whole training: the same settings give the same bits, however it is cut into calls."""

import json

import jax
import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.training import trainer
from rgjax.training.trainer import Trial
from tests.training.test_faults import saved, task
from tests.training.test_feed import dense

SETTINGS = {"train.batch_size": 8, "train.steps": 10, "train.eval_steps": 5, "train.lr": 0.1, "trackers": ""}


def train(folder, **changes):
    """Logits, the last state, and the rows of a training with four steps an epoch."""
    config = method_config("ce", SETTINGS | changes)
    trained = trainer.train(task(), [Trial(config, folder)], dense())
    assert not trained.lost
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{name: value for name, value in row.items() if name != "train_s"} for row in rows]
    return trained.logits[0], saved(folder / "checkpoints"), timeless


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return train(tmp_path_factory.mktemp("once"))


def assert_same_bits(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_bits(expected, tmp_path):
    again = train(tmp_path)
    assert_same_bits(again, expected)
    assert np.ptp(expected[0]["test"]) > 0


def test_another_seed_gives_another_network(expected, tmp_path):
    assert not np.array_equal(train(tmp_path, seed=1)[0]["test"], expected[0]["test"])


@pytest.mark.parametrize("steps", [1, 3, 4], ids=["step by step", "three", "an epoch"])
def test_no_length_of_a_call_changes_a_bit(steps, expected, tmp_path):
    logits, state, rows = train(tmp_path, **{"train.steps_per_call": steps})
    assert_same_bits((logits, state), expected[:2])
    for ours, theirs in zip(rows, expected[2], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)  # sums of other calls


def test_a_setting_for_faults_changes_no_bit_of_a_sound_run(expected, tmp_path):
    assert_same_bits(train(tmp_path, **{"train.on_nan": "skip"})[:2], expected[:2])
