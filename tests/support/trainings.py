"""Whole trainings of small networks, for tests: a task, its training, and what it leaves."""

import contextlib
import json

import jax
import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.data import Dataset
from rgjax.regroup import Regrouping
from rgjax.sharding import make_mesh
from rgjax.training import trainer
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import TrainSchedule
from rgjax.training.program import TrainState, init_state
from rgjax.training.task import Task
from rgjax.training.trainer import Outcome, Trial
from tests.support.programs import BATCH, EXAMPLES, Dense, images

BAD = 21  # the only example of class 2; of an epoch's four steps one holds it
SCHEDULE = TrainSchedule(
    total_steps=23,
    steps_per_epoch=10,
    steps_per_call=4,
    warmup=0,
    drw_start=None,
    eval_every=10,
    checkpoint_every=7,
    batch_size=2,
)


def mesh(trials: int = 1):
    return make_mesh(jax.devices(), trials=trials, batch_size=BATCH)


def small_task(inputs=None) -> Task:
    """64 examples, of which 32 are trained on."""
    labels = np.random.default_rng(0).integers(0, 2, 64).astype(np.int32)
    labels[BAD] = 2
    train, val, test = np.split(np.arange(64, dtype=np.int32), (EXAMPLES, 48))
    ids = np.array([f"example-{i}" for i in range(64)])
    dataset = Dataset("d", np.empty(0), labels, ("a", "b", "c"), ids, train, val, test, "")
    inputs, labels, pool = images(64) if inputs is None else inputs, labels[train], np.arange(EXAMPLES, dtype=np.int32)
    return Task(dataset, inputs, train, labels, pool, Regrouping.identity(labels, 3), labels)


def train(folder, task: Task | None = None, model=None, **changes) -> Outcome:
    """Train for 12 steps, four an epoch; `changes` are fields of the config with _ for the first dot."""
    settings = {"train.batch_size": BATCH, "train.steps": 12, "train.eval_steps": 4, "train.lr": 0.1, "trackers": ""}
    settings |= {name.replace("_", ".", 1): value for name, value in changes.items()}
    config = method_config("ce", settings)
    (outcome,), _ = trainer.train([task or small_task()], [Trial(config, folder)], [model or Dense()], mesh())
    return outcome


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder) -> TrainState:
    """The newest state in a folder of checkpoints."""
    checkpoints = Checkpoints(folder)
    state, *_ = checkpoints.restore(init_state(Dense(), "sgd")[1])
    checkpoints.close()
    return state


@contextlib.contextmanager
def interrupted_at_second_evaluation(monkeypatch):
    """The training in the block is interrupted when it evaluates for the second time."""
    evaluate, calls = trainer.validate, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "validate", interrupt)
        yield
