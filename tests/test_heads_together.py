"""Heads of different seeds, splits, groups and samplers as one program: the numbers of lone runs."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from rgjax import experiment
from rgjax.config import HEAD_TRAINING, method_config
from rgjax.errors import UserError
from rgjax.training import trainer
from rgjax.training.trainer import Trial
from tests.support.compilations import compiled_programs

SETTINGS = {
    **HEAD_TRAINING,
    "data.name": "digits",
    "data.positive": "8",
    "data.image_size": 8,
    "encoder.name": "projection",
    "model.hidden": 8,
    "train.epochs": 3,
    "train.lr": 0.01,
    "trackers": "",
}
RANDOM = {"regroup.clustering": "random", "regroup.rule": "target"}
# Trials of one program: their splits and pools have different sizes, and their epochs equally many steps.
TRIALS = [
    ("rg", RANDOM | {"regroup.threshold": 150}),
    ("rg", RANDOM | {"regroup.threshold": 200, "seed": 1, "data.seed": 1}),
    ("ce", {"seed": 2}),
    ("ros", {"data.seed": 3, "train.lr": 0.003}),
    ("rus", {}),
]


@pytest.fixture(autouse=True, scope="module")
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        yield


def trials_in(folder, **changes):
    return [
        Trial(method_config(method, SETTINGS | fields | changes), folder / str(i))
        for i, (method, fields) in enumerate(TRIALS)
    ]


def content(trial):
    """The predictions of a run and its rows of metrics, without times."""
    with np.load(trial.workdir / "predictions.npz") as file:
        predictions = dict(file)
    rows = [json.loads(line) for line in (trial.workdir / "metrics.jsonl").read_text().splitlines()]
    return predictions, [{name: value for name, value in row.items() if name != "train_s"} for row in rows]


def assert_equal(ours, theirs, atol):
    for array, expected in zip(ours[0].values(), theirs[0].values(), strict=True):
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected, rtol=0, atol=atol)
        else:
            np.testing.assert_array_equal(array, expected)
    for row, expected in zip(ours[1], theirs[1], strict=True):
        assert row == pytest.approx(expected, abs=10 * atol + 1e-6)  # losses are summed in calls of any length


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    trials = trials_in(tmp_path_factory.mktemp("lone"))
    for trial in trials:
        experiment.run(*trial[:2])
    return trials


def test_a_population_gives_the_numbers_and_files_of_lone_runs(lone, tmp_path):
    trials = trials_in(tmp_path)
    results = experiment.run_population(trials)
    assert [result["timing"]["trials"] for result in results] == [len(trials)] * len(trials)
    assert len({result["num_pseudo_classes"] for result in results}) == 3
    for trial, alone in zip(trials, lone, strict=True):
        assert_equal(content(trial), content(alone), atol=0)  # on a CPU one after the other, with the same bits
        files = [{path.relative_to(t.workdir).parts[0] for path in t.workdir.rglob("*")} for t in (trial, alone)]
        assert files[0] == files[1]


def test_side_by_side_as_on_accelerators_and_streamed(lone, tmp_path, monkeypatch):
    program = trainer.training_program
    monkeypatch.setattr(trainer, "training_program", lambda *a, **k: replace(program(*a, **k), in_turn=False))
    for placement in ("device", "stream"):
        trials = trials_in(tmp_path / placement, **{"data.placement": placement})
        experiment.run_population(trials)
        for trial, alone in zip(trials, lone, strict=True):
            assert_equal(content(trial), content(alone), atol=1e-4)


def test_the_next_population_of_the_same_shapes_compiles_nothing(tmp_path):
    for number in range(2):
        trials = [trial for trial in trials_in(tmp_path / str(number), **{"seed": number, "train.lr": 0.02})][:2]
        with compiled_programs() as names:
            experiment.run_population(trials)
    assert not {"train_trials", "forward_trials"} & set(names)


def test_a_trial_that_diverges_stops_alone(lone, tmp_path):
    trials = trials_in(tmp_path)
    trials[1].config.train.lr = 1e38
    with pytest.raises(UserError, match=f"^{trials[1].workdir}: the (loss|gradient) is not finite at step"):
        experiment.run_population(trials)
    assert not (trials[1].workdir / "result.json").exists()
    for i in (0, 2, 3, 4):
        assert_equal(content(trials[i]), content(lone[i]), atol=0)


def test_a_trial_that_cannot_be_prepared_fails_alone(lone, tmp_path):
    trials = trials_in(tmp_path)
    trials[1].config.regroup.update({"clustering": "kmeans", "rule": "target", "threshold": 0})
    with pytest.raises(UserError, match=f"^{trials[1].workdir}: config.regroup: threshold=0"):
        experiment.run_population(trials)
    for i in (0, 2, 3, 4):
        assert_equal(content(trials[i]), content(lone[i]), atol=0)


def test_an_interrupted_population_resumes_run_by_run(lone, tmp_path, monkeypatch):
    trials, save, saved = trials_in(tmp_path, **{"train.checkpoint_epochs": 1.0}), trainer.Checkpoints.save, []

    def interrupted(self, *arguments):
        save(self, *arguments)
        saved.append(self)
        if len(saved) == len(trials) + 1:  # the first trial alone has its second checkpoint
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run_population(trials)
    monkeypatch.undo()
    experiment.run_population(trials[::-1])
    for trial, alone in zip(trials, lone, strict=True):
        assert_equal(content(trial), content(alone), atol=0)


def test_a_run_whose_scores_alone_count_leaves_no_checkpoint_and_no_pictures(lone, tmp_path):
    trial = trials_in(tmp_path)[0]._replace(only_scores=True)
    experiment.run_population([trial])
    assert_equal(content(trial), content(lone[0]), atol=0)
    assert not (trial.workdir / "checkpoints").exists() and not (trial.workdir / "groups").exists()
