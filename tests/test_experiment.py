"""The whole story on the digits, with a narrow network: every method, identities, and the files of a run."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from rgjax import experiment
from rgjax.config import METHODS, method_config
from rgjax.errors import UserError

SMALL = {
    "data.positive": "8",
    "data.image_size": 16,
    "data.flip": False,
    "encoder.name": "projection",
    "model.name": "resnet10",
    "model.width": 8,
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.lr": 0.05,
    "regroup.n_init": 2,
}


def run(method, workdir, **changes):
    config = method_config(method, SMALL)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return experiment.run(config, workdir, say=lambda text: None)


def predictions(workdir):
    with np.load(workdir / "predictions.npz") as file:
        return dict(file)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_two_epochs(method, tmp_path):
    result = run(method, tmp_path)
    assert result["method"] == method
    assert result["num_classes"] == 2
    assert (result["num_pseudo_classes"] > 2) == method.startswith("rg")
    assert set(result["test"]["ap"]) == {"rest", "8"}
    assert set(result["test_by_aggregation"]) == {"max", "sum"}
    assert 0 < result["test"]["ba"] <= 1


def test_the_files_of_a_run_tell_its_result(tmp_path):
    result = run("rg", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"metrics.jsonl", "provenance.json", "regrouping.npz", "predictions.npz", "result.json",
                     "split.npz", "checkpoints"}  # fmt: skip
    saved = predictions(tmp_path)
    logits, labels, parent = saved["test_logits"], saved["test_labels"], saved["parent"]
    assert logits.shape == (result["test"]["n"], result["num_pseudo_classes"])
    by_class = np.stack([logits[:, parent == c].max(axis=1) for c in range(2)], axis=1).astype(float)
    margin = by_class[:, 1] - by_class[:, 0]
    assert result["test"]["ap"]["8"] == pytest.approx(average_precision_score(labels, margin))
    assert result["test"]["ba"] == pytest.approx(balanced_accuracy_score(labels, by_class.argmax(axis=1)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1.0, 2.0]
    with np.load(tmp_path / "split.npz") as split:
        parts = [set(split[part]) for part in ("train", "val", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 1797


def test_one_cluster_a_class_is_ce_bit_for_bit(tmp_path):
    run("ce", tmp_path / "ce")
    run("rg", tmp_path / "rg", **{"regroup.threshold": 5000})
    for ours, theirs in zip(predictions(tmp_path / "rg").items(), predictions(tmp_path / "ce").items(), strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_ten_classes_and_random_groups(tmp_path):
    result = run("rg", tmp_path, **{
        "data.positive": "", "regroup.clustering": "random", "regroup.rule": "target", "regroup.threshold": 60,
    })  # fmt: skip
    assert result["num_classes"] == 10
    assert result["num_pseudo_classes"] == 20


@pytest.mark.parametrize(("method", "positive"), [("rg_ldam", ""), ("rusc", "mel")])
def test_seven_lesions_and_one_against_the_rest(method, positive, ham_download, tmp_path):
    result = run(method, tmp_path / "w", **{
        "data.name": "ham10000", "data.split": "grouped", "data.positive": positive, "train.batch_size": 16,
        "data.manual_dir": str(ham_download), "data.data_dir": str(tmp_path / "prepared"), "train.steps": 2,
    })  # fmt: skip
    assert result["dataset"] == ("ham10000_mel" if positive else "ham10000")
    assert result["num_classes"] == (2 if positive else 7)
    assert sum(result["test"]["counts"].values()) == result["test"]["n"]


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    result = run("ce", tmp_path)
    monkeypatch.setattr(experiment, "load_data", None)
    assert run("ce", tmp_path) == result


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    changes = {"train.checkpoint_steps": 5, "train.eval_steps": 4}
    run("rg", tmp_path / "whole", **changes)
    evaluate = experiment.metrics.balanced_accuracy
    calls = []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(experiment.metrics, "balanced_accuracy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("rg", tmp_path / "cut", **changes)
    monkeypatch.undo()
    run("rg", tmp_path / "cut", **changes)
    whole, cut = predictions(tmp_path / "whole"), predictions(tmp_path / "cut")
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name])

    def rows(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [
            {k: v for k, v in json.loads(line).items() if k in ("step", "val_ba", "val_macro_ap")} for line in lines
        ]

    assert rows("whole") == rows("cut")


@pytest.fixture(scope="module")
def ce_of_three_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ce")
    run("ce", workdir, **{"train.steps": 3})
    return predictions(workdir)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.name": "focal", "loss.gamma": 0.0},
        {"loss.name": "la", "loss.tau": 0.0},
        {"loss.name": "ldam", "loss.max_m": 0.0, "loss.s": 1.0, "model.head": "linear"},
    ],
    ids=lambda c: c["loss.name"],
)
def test_neutral_hyper_parameters_are_ce(changes, tmp_path, ce_of_three_steps):
    run("ce", tmp_path, **{"train.steps": 3, **changes})
    expected = ce_of_three_steps["test_logits"]
    np.testing.assert_allclose(predictions(tmp_path)["test_logits"], expected, rtol=1e-3, atol=1e-4)


def test_posthoc_adjustment_subtracts_the_prior(tmp_path, ce_of_three_steps):
    run("la", tmp_path, **{"train.steps": 3, "loss.posthoc": True})
    shift = ce_of_three_steps["val_logits"] - predictions(tmp_path)["val_logits"]
    prior = np.bincount(ce_of_three_steps["val_labels"]) / len(shift)
    np.testing.assert_allclose(shift, np.broadcast_to(np.log(prior), shift.shape), atol=0.05)


def test_a_batch_larger_than_the_training_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.train\.batch_size=5000 is larger than the training set of \d+"):
        run("ce", tmp_path, **{"train.batch_size": 5000})
