"""Heads on frozen features: whole runs, against scikit-learn, lone runs and their files."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from rgjax import experiment
from rgjax.config import FROZEN, HEAD_TRAINING, METHODS, method_config
from rgjax.data import load_data
from rgjax.errors import UserError
from rgjax.training.trainer import Trial
from tests.support.features import write_features

SETTINGS = {
    **HEAD_TRAINING,
    "data.name": "features",
    "model.hidden": 16,
    "train.epochs": 4,
    "train.batch_size": 32,
    "train.lr": 0.01,
    "regroup.rule": "target",
    "regroup.threshold": 30,
    "regroup.n_init": 1,
    "trackers": "",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(write_features(tmp_path_factory.mktemp("data") / "f.npz"))


@pytest.fixture(autouse=True, scope="module")
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        yield


def settings(method, file, **changes):
    """The config of a run; `changes` are fields with _ for the first dot."""
    changed = {name.replace("_", ".", 1): value for name, value in changes.items()}
    return method_config(method, SETTINGS | {"data.manual_dir": file} | changed)


def predictions(folder):
    with np.load(folder / "predictions.npz") as content:
        return dict(content)


def test_a_linear_head_at_convergence_is_logistic_regression(file, tmp_path):
    changes = {"model_name": "linear", "train_lr": 0.05, "train_weight_decay": 0.0, "train_batch_size": 217}
    config = settings("ce", file, train_epochs=1000, **changes)
    experiment.run(config, tmp_path)

    dataset = load_data(config.data)
    scaler = StandardScaler().fit(dataset.inputs[dataset.train])
    reference = LogisticRegression(C=np.inf, solver="newton-cg", max_iter=1000)
    reference.fit(scaler.transform(dataset.inputs[dataset.train]), dataset.labels[dataset.train])
    expected = reference.predict_log_proba(scaler.transform(dataset.inputs[dataset.test]))
    logits = predictions(tmp_path)["test_logits"]
    np.testing.assert_allclose(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), expected, atol=0.05)
    scores = [balanced_accuracy_score(dataset.labels[dataset.test], x.argmax(axis=1)) for x in (logits, expected)]
    assert abs(scores[0] - scores[1]) < 0.02


@pytest.mark.long
def test_every_method_and_both_heads_give_a_result(file, tmp_path):
    for method in METHODS:
        result = experiment.run(settings(method, file, model_name=FROZEN[method == "rg"]), tmp_path / method)
        assert 0.2 < result["test"]["ba"] <= 1
        groups = METHODS[method].regroups
        assert (result["num_pseudo_classes"] > 3) == groups
        assert (tmp_path / method / "groups" / "sizes.png").exists() == groups
    table = next((tmp_path / "rg" / "groups").glob("*zebra*.md")).read_text()
    assert "e17" in table or "e1" in table  # the examples are shown by their ids


def test_smote_on_features_balances_the_groups(file):
    task = experiment.prepare(settings("dsmt", file))
    counts = np.bincount(task.labels)
    assert (counts == counts[0]).all()
    assert len(task.inputs) == len(task.dataset.inputs) + len(task.synthetic.labels)
    np.testing.assert_array_equal(task.inputs[: len(task.dataset.inputs)], task.dataset.inputs)
    real = task.dataset.inputs[task.dataset.train]
    np.testing.assert_allclose(task.standardization.mean, real.mean(axis=0), rtol=1e-5)  # without synthetic ones


def test_a_member_of_a_population_is_its_lone_run(file, tmp_path):
    config = settings("rg", file)
    trials = []
    for seed in (0, 1):
        config = settings("rg", file, train_lr=0.01 * (1 + seed))
        config.seed = seed
        trials.append(Trial(config, tmp_path / f"{seed}"))
    experiment.run_population(trials)
    experiment.run(trials[1].config, tmp_path / "lone")
    together, alone = predictions(tmp_path / "1"), predictions(tmp_path / "lone")
    np.testing.assert_allclose(together["test_logits"], alone["test_logits"], rtol=1e-4, atol=1e-4)
    assert (together["test_logits"] != predictions(tmp_path / "0")["test_logits"]).any()


def test_streamed_features_train_to_the_same_bits(file, tmp_path):
    for placement in ("device", "stream"):
        experiment.run(settings("ce", file, data_placement=placement), tmp_path / placement)
    expected, streamed = predictions(tmp_path / "device"), predictions(tmp_path / "stream")
    np.testing.assert_array_equal(streamed["test_logits"], expected["test_logits"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "resnet34"}, "config.model.name=resnet34: cannot read features; use --config.model.name=mlp"),
        ({"encoder_name": "projection"}, "config.encoder.name=projection: cannot encode features; use"),
        ({"encoder_name": "clip"}, "config.encoder.name=clip: cannot encode features; use"),
        ({"train_batch_size": 1000}, "larger than the training set of 217 features; lower it"),
    ],
)
def test_what_cannot_read_features_is_refused(changes, message, file):
    with pytest.raises(UserError, match=message):
        experiment.prepare(settings("rg", file, **changes))
