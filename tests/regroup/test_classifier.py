"""The meta-estimator: scikit-learn's checks, and the scores that it aggregates."""

import doctest
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import sklearn
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from rgjax import regroup
from rgjax.regroup import RegroupClassifier
from tests.support.compilations import compiled_programs

ROOT = Path(__file__).parents[2]


@parametrize_with_checks([RegroupClassifier()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.long
@parametrize_with_checks(
    [
        RegroupClassifier(DecisionTreeClassifier(random_state=0), aggregate="sum"),
        RegroupClassifier(LinearSVC(dual=False, tol=1e-12)),
        RegroupClassifier(NearestCentroid(), clustering="random"),
    ]
)
def test_scikit_learns_checks_of_other_inner_classifiers(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def table():
    """Six blobs, of which five are the class "many": 400 samples against 80, not separable by a plane."""
    centers = [[0, 0], [0, 8], [8, 0], [8, 8], [4, -6], [4, 4]]
    x, blob = make_blobs([80] * 6, centers=centers, random_state=0)
    return x, np.where(blob == 5, "few", "many")


def test_pseudo_classes_let_a_linear_classifier_separate_blobs(table):
    x, y = table
    model = RegroupClassifier(random_state=0).fit(x, y)
    assert model.classes_.tolist() == ["few", "many"]
    assert model.regrouping_.parent.tolist() == [0, 1, 1, 1, 1, 1]
    assert model.n_pseudo_classes_ == len(model.estimator_.classes_) == 6
    assert model.regrouping_.counts.tolist() == [80] * 6
    assert balanced_accuracy_score(y, model.predict(x)) > 0.97
    plain = RegroupClassifier(clustering="none").fit(x, y)
    assert balanced_accuracy_score(y, plain.predict(x)) < 0.6


@pytest.mark.long
@pytest.mark.parametrize("how", ["max", "sum"])
@pytest.mark.parametrize("inner", [LogisticRegression(max_iter=1000), DecisionTreeClassifier(max_depth=2)])
def test_scores_are_aggregated_and_consistent(table, how, inner):
    x, y = table
    y = np.where((y == "many") & (x[:, 0] > 6) & (x[:, 1] < 4), "side", y)  # three classes
    model = RegroupClassifier(inner, aggregate=how, random_state=0).fit(x, y)
    logits = np.log(np.maximum(model.estimator_.predict_proba(x), 1e-30))
    expected = softmax(model.regrouping_.class_logits(logits, how), axis=1)
    probabilities = model.predict_proba(x)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(model.predict(x), model.classes_[probabilities.argmax(axis=1)])
    np.testing.assert_allclose(softmax(model.decision_function(x), axis=1), probabilities)


def test_clustering_none_is_the_inner_classifier(table):
    x, y = table
    plain, model = LogisticRegression().fit(x, y), RegroupClassifier(LogisticRegression(), clustering="none").fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x), plain.predict_proba(x), atol=1e-12)
    np.testing.assert_allclose(model.decision_function(x), plain.decision_function(x), atol=1e-9)
    plain, model = LinearSVC().fit(x, y), RegroupClassifier(LinearSVC(), clustering="none").fit(x, y)
    np.testing.assert_allclose(model.decision_function(x), plain.decision_function(x))


def test_methods_are_those_of_the_inner_classifier(table):
    x, y = table
    votes = VotingClassifier([("tree", DecisionTreeClassifier())])
    scores, labels = RegroupClassifier(LinearSVC(), random_state=0), RegroupClassifier(votes)
    for model in (scores, labels):
        assert not hasattr(model, "predict_proba")
        assert balanced_accuracy_score(y, model.fit(x, y).predict(x)) > 0.9
        assert not hasattr(model, "predict_proba")
    assert scores.decision_function(x).shape == (480,)
    assert not hasattr(labels, "decision_function")
    with pytest.raises(ValueError, match=r"aggregate='sum': LinearSVC\(\) has no predict_proba"):
        RegroupClassifier(LinearSVC(), aggregate="sum").fit(x, y)
    with pytest.raises(ValueError, match=r"returns 15 scores for 6 pseudo-classes.*decision_function_shape='ovr'"):
        RegroupClassifier(SVC(decision_function_shape="ovo"), random_state=0).fit(x, y).predict(x)


def test_fit_clusters_by_given_features(table):
    x, y = table
    halves = np.tile([[0.0, 0.0], [1.0, 1.0]], (240, 1))
    model = RegroupClassifier(rule="target", threshold=200, random_state=0).fit(x, y, features=halves)
    groups = model.regrouping_.pseudo_labels[y == "many"]
    assert len(set(zip(groups, halves[y == "many", 0], strict=True))) == 2
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        RegroupClassifier().fit(x, y, features=halves[:-1])
    with pytest.raises(ValueError, match="Input features contains NaN"):
        RegroupClassifier().fit(x, y, features=np.full((480, 1), np.nan))


def test_sparse_input_needs_features(table):
    x, y = table
    with pytest.raises(TypeError, match=r"Sparse X: K-means needs dense features; use fit\(X, y, features="):
        RegroupClassifier().fit(csr_array(x), y)
    model = RegroupClassifier(random_state=0).fit(csr_array(x), y, features=x)
    assert balanced_accuracy_score(y, model.predict(csr_array(x))) > 0.97
    RegroupClassifier(clustering="random").fit(csr_array(x), y)


def test_missing_values_are_accepted_with_the_inner_classifier(table):
    x, y = table
    holes = x.copy()
    holes[::7, 0] = np.nan
    model = RegroupClassifier(DecisionTreeClassifier(max_depth=4), random_state=0).fit(holes, y)
    assert balanced_accuracy_score(y, model.predict(holes)) > 0.8
    with pytest.raises(ValueError, match="NaN"):
        RegroupClassifier().fit(holes, y)


def test_feature_names_are_kept(table):
    pandas = pytest.importorskip("pandas")
    x, y = table
    frame = pandas.DataFrame(x, columns=["width", "height"])
    model = RegroupClassifier(random_state=0).fit(frame, pandas.Series(y))
    assert model.feature_names_in_.tolist() == ["width", "height"]
    with pytest.warns(UserWarning, match="valid feature names"):
        assert (model.predict(x) == model.predict(frame)).all()
    assert not hasattr(model.fit(x, y), "feature_names_in_")


def test_a_single_class_is_predicted_everywhere(table):
    x, _ = table
    model = RegroupClassifier(HistGradientBoostingClassifier(max_iter=1)).fit(x[:20], ["all"] * 20)
    assert set(model.predict(x)) == {"all"}
    assert model.predict_proba(x[:2]).tolist() == [[1], [1]]


def test_settings_clones_and_pickles(table):
    x, y = table
    model = RegroupClassifier(make_pipeline(StandardScaler(), LogisticRegression()), random_state=0)
    model.set_params(estimator__logisticregression__C=10.0, threshold=79)
    assert clone(model).get_params()["estimator__logisticregression__C"] == 10.0
    assert model.fit(x, y).n_features_in_ == 2
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(clone(model).fit(x, y).predict_proba(x), model.predict_proba(x))


def test_weights_reach_the_inner_classifier(table):
    x, y = table
    weights = np.where(x[:, 0] < 4, 0.5, 2.0)
    pseudo = RegroupClassifier(random_state=0).fit(x, y).regrouping_.pseudo_labels
    expected = LogisticRegression(max_iter=1000).fit(x, pseudo, sample_weight=weights)
    model = RegroupClassifier(random_state=0).fit(x, y, sample_weight=weights)
    np.testing.assert_array_equal(model.estimator_.coef_, expected.coef_)
    with pytest.raises(TypeError, match=r"sample_weight: NearestCentroid\(\) takes no weights"):
        RegroupClassifier(NearestCentroid()).fit(x, y, sample_weight=weights)


def test_metadata_routing(table):
    x, y = table
    weights, halves = np.where(x[:, 0] < 4, 0.0, 1.0), np.tile([[0.0, 0.0], [1.0, 1.0]], (240, 1))
    with sklearn.config_context(enable_metadata_routing=True):
        inner = LogisticRegression(max_iter=1000).set_fit_request(sample_weight=True)
        model = RegroupClassifier(inner, rule="target", threshold=200, random_state=0)
        model.set_fit_request(features=True).set_score_request(sample_weight=False)
        routed = model.fit(x, y, sample_weight=weights, features=halves)
        scores = cross_val_score(model, x, y, params={"sample_weight": weights, "features": halves}, cv=2)
        assert np.isfinite(scores).all()
        with pytest.raises(ValueError, match=r"sample_weight.*not explicitly set"):
            RegroupClassifier(LogisticRegression()).fit(x, y, sample_weight=weights)
    direct = RegroupClassifier(**model.get_params(deep=False)).fit(x, y, halves, sample_weight=weights)
    np.testing.assert_array_equal(direct.estimator_.coef_, routed.estimator_.coef_)


def test_folds_and_grids_share_a_program(table):
    x, y = table
    model = RegroupClassifier(rule="target", random_state=0)
    pipe = make_pipeline(StandardScaler(), model)
    grid = {"regroupclassifier__threshold": [60, 80, 100], "regroupclassifier__aggregate": ["max", "sum"]}
    with compiled_programs() as names:
        search = GridSearchCV(pipe, grid, scoring="average_precision", cv=StratifiedKFold(3)).fit(x, y == "few")
    assert names.count("_best_of") <= 1  # none, where a test before has compiled it
    assert search.best_score_ > 0.97


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule": "half"}, "rule='half'"),
        ({"clustering": "dbscan"}, "clustering='dbscan'"),
        ({"aggregate": "mean"}, "aggregate='mean': unknown; valid: max, sum"),
        ({"rule": "target"}, "threshold=0 examples; it must be above 0"),
        ({"threshold": -1}, "threshold=-1 examples; it must be at least 0"),
    ],
)
def test_unknown_settings_are_named(table, change, says):
    with pytest.raises(ValueError, match=says):
        RegroupClassifier(**change).fit(*table)


@pytest.mark.long
def test_the_docstrings_example_holds():
    results = doctest.testmod(import_module("rgjax.regroup.regrouping"))
    assert results.attempted > 5
    assert results.failed == 0


def test_regroup_needs_numpy_arrays_alone(table):
    """As a user of PyTorch does: targets out, logits in, everything else theirs."""
    x, y = table
    labels = (y == "few").astype(np.int64)
    grouping = regroup.regroup(x, labels)
    targets = np.eye(grouping.num_pseudo_classes)[grouping.pseudo_labels]
    inputs = np.concatenate([(x - x.mean(0)) / x.std(0), np.ones((len(x), 1))], axis=1)
    weights = np.zeros((3, grouping.num_pseudo_classes))
    for _ in range(300):
        weights += inputs.T @ (targets - softmax(inputs @ weights, axis=1)) / 100
    for how in regroup.AGGREGATIONS:
        predicted = grouping.class_logits(inputs @ weights, how).argmax(axis=1)
        assert balanced_accuracy_score(labels, predicted) > 0.95
    with pytest.raises(ValueError, match=r"logits \[480, 2\].*needs \[B, 6\]"):
        grouping.class_logits(np.zeros((480, 2)))


@pytest.mark.long
def test_the_import_needs_no_network_library_and_no_data():
    program = """
import sys
from rgjax.regroup import Regrouping, regroup
assert "sklearn" not in sys.modules
from rgjax.regroup import RegroupClassifier
assert not {"flax", "orbax", "tensorflow_datasets", "absl"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=100)


@pytest.mark.long
def test_the_example_of_a_table():
    out = subprocess.run(
        [sys.executable, Path(__file__).with_name("example_table.py"), "--repeats=1", "--folds=2", "--only=breast"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=500, capture_output=True, text=True,
    ).stdout  # fmt: skip
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert any("RegroupClassifier" in row for row in rows)
    assert any("SMOTE" in row for row in rows)
    assert "n = 2 test folds" in out
