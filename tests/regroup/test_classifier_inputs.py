"""What users give the meta-estimator: weights, tables with text, extreme ratios, forked processes."""

import logging
import multiprocessing
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest
import sklearn
from scipy.sparse import csr_array
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from rgjax.regroup import RegroupClassifier

ROOT = Path(__file__).parents[2]


def random_groups(inner=None, **settings):
    """Random groups need no K-means, which takes seconds to compile."""
    return RegroupClassifier(inner, clustering="random", random_state=0, **settings)


@pytest.fixture(scope="module")
def data():
    """Samples of two classes, 120 and 24, and weights."""
    rng = np.random.default_rng(0)
    y = np.repeat(["many", "few"], [120, 24])
    x = rng.normal(size=(144, 3)) + 2.0 * (y == "few")[:, None]
    order = rng.permutation(144)
    return x[order], y[order], rng.choice([0.1, 1.0, 10.0], 144)


ONE = {"n_estimators": 3, "random_state": 0}
OUTER = {
    "AdaBoost": lambda model: AdaBoostClassifier(model, **ONE),
    "Calibrated": lambda model: CalibratedClassifierCV(model, cv=2),
    "Bagging": lambda model: BaggingClassifier(model, **ONE),
    "GridSearch": lambda model: GridSearchCV(model, {"aggregate": ["max"]}, cv=2),
}


@pytest.mark.parametrize("outer", OUTER)
def test_weights_arrive_through_meta_estimators(data, outer):
    x, y, weights = data
    model = OUTER[outer](random_groups())
    weighted = model.fit(x, y, sample_weight=weights).predict_proba(x)
    assert np.abs(weighted - model.fit(x, y).predict_proba(x)).max() > 1e-3


def test_weights_arrive_through_pipelines_around_and_inside(data):
    x, y, weights = data
    expected = random_groups().fit(StandardScaler().fit_transform(x), y, sample_weight=weights)
    around = make_pipeline(StandardScaler(), random_groups()).fit(x, y, regroupclassifier__sample_weight=weights)
    inner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    inside = random_groups(inner).fit(x, y, sample_weight=weights)
    for model in (around, inside):
        np.testing.assert_allclose(model.predict_proba(x), expected.predict_proba(StandardScaler().fit_transform(x)))


@pytest.mark.parametrize("requested", [True, None])
def test_weights_are_routed(data, requested):
    x, y, weights = data
    plain = cross_validate(random_groups(), x, y, params={"sample_weight": weights}, return_estimator=True, cv=2)
    with sklearn.config_context(enable_metadata_routing=True):
        inner = LogisticRegression(max_iter=1000).set_fit_request(sample_weight=True)
        model = random_groups(inner).set_score_request(sample_weight=False)
        model = model.set_fit_request(sample_weight=requested)
        routed = cross_validate(model, x, y, params={"sample_weight": weights}, return_estimator=True, cv=2)
        bagged = BaggingClassifier(model, **ONE).fit(x, y, sample_weight=weights)
        assert np.isfinite(bagged.predict_proba(x)).all()
        refused = random_groups(LogisticRegression(max_iter=1000).set_fit_request(sample_weight=False))
        with pytest.raises(TypeError, match=r"sample_weight.*not routed to any object"):
            refused.fit(x, y, sample_weight=weights)
    for a, b in zip(routed["estimator"], plain["estimator"], strict=True):
        np.testing.assert_array_equal(a.estimator_.coef_, b.estimator_.coef_)


def test_without_weights_of_the_inner_classifier_they_are_an_error_only_where_given(data):
    x, y, weights = data
    assert "sample_weight" in signature(RegroupClassifier.fit).parameters
    assert "sample_weight" in signature(random_groups().fit).parameters
    assert "sample_weight" not in signature(random_groups(KNeighborsClassifier()).fit).parameters
    for inner in (KNeighborsClassifier(), make_pipeline(StandardScaler(), KNeighborsClassifier())):
        model = random_groups(inner)
        assert model.fit(x, y).score(x, y) > 0.5
        assert BaggingClassifier(model, **ONE).fit(x, y).score(x, y) > 0.5  # which weighs where it can
        with pytest.raises(TypeError, match=r"sample_weight: .*takes no weights; use another inner classifier"):
            model.fit(x, y, sample_weight=weights)
        with pytest.raises(ValueError, match="RegroupClassifier doesn't support sample_weight"):
            AdaBoostClassifier(model).fit(x, y)


KINDS = {"array": np.asarray, "frame": pandas.DataFrame, "list": lambda x: x.tolist(), "sparse": csr_array}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_weight_zero_are_absent(data, kind):
    x, y, weights = data
    weights = np.where(x[:, 0] < 0, 0, weights)
    whole = random_groups().fit(KINDS[kind](x), y, sample_weight=weights)
    part = random_groups().fit(KINDS[kind](x[weights > 0]), y[weights > 0], sample_weight=weights[weights > 0])
    np.testing.assert_array_equal(whole.estimator_.coef_, part.estimator_.coef_)
    assert len(whole.regrouping_.pseudo_labels) == (weights > 0).sum()
    ones = random_groups().fit(x, y, sample_weight=np.full(144, 3.0)).regrouping_
    np.testing.assert_array_equal(ones.pseudo_labels, random_groups().fit(x, y).regrouping_.pseudo_labels)
    with pytest.raises(ValueError, match=r"sample_weight|Sample weights"):
        random_groups().fit(x, y, sample_weight=np.zeros(144))


def tables(x):
    """Tables with text, and the names of its columns."""
    city = np.where(x[:, 0] > 0, "Köln", "Rom")
    frame = pandas.DataFrame(
        {"width": x[:, 0], "city": city, "height": x[:, 1], "size": pandas.Categorical([1, 2] * 72)}
    )
    dates = pandas.date_range("2020", periods=144)
    return [
        (frame, "city, size"),
        (frame[["width", "size"]], "size"),
        (frame[["width"]].assign(day=dates), "day"),
        (frame.to_numpy(object), "1"),
        (np.stack([city, x[:, 1].astype(str)], axis=1), "0"),
        (pyarrow.table({"width": x[:, 0], "city": city}), "city"),
        (pyarrow.table({"kind": pyarrow.array(city).dictionary_encode(), "width": x[:, 0]}), "kind"),
        (list(city), "0"),
    ]


def test_columns_of_text_are_named_with_the_way_out(data):
    x, y, _ = data
    for table, names in tables(x):
        says = f"X: K-means needs numbers, and these columns hold text or categories: {names}; use .*features="
        with pytest.raises(ValueError, match=says):
            RegroupClassifier().fit(table, y)


def test_text_goes_to_the_inner_classifier(data):
    x, y, _ = data
    frame = tables(x)[0][0]
    encoder = make_column_transformer((OneHotEncoder(), ["city", "size"]), remainder="passthrough")
    model = random_groups(make_pipeline(encoder, LogisticRegression())).fit(frame, y)
    assert model.n_pseudo_classes_ > 2
    assert model.score(frame, y) > 0.5
    numeric = x.astype(object)  # numbers as objects or as text are numbers
    numeric[:, 1] = numeric[:, 1].astype(str)
    RegroupClassifier(clustering="kmeans", threshold=1000).fit(numeric, y)


@pytest.mark.parametrize("clustering", ["kmeans", "random"])
@pytest.mark.parametrize(("size", "least"), [(None, 8), (3, 3)])
def test_groups_have_a_least_size(clustering, size, least, caplog):
    rng = np.random.default_rng(0)
    x, y = rng.standard_cauchy(size=(243, 2)), np.repeat([0, 1], [240, 3])
    with caplog.at_level(logging.INFO, "rgjax"):
        model = RegroupClassifier(clustering=clustering, min_group_size=size, n_init=1, random_state=0).fit(x, y)
    counts = model.regrouping_.counts
    assert counts[:-1].min() >= least and counts[-1] == 3
    if clustering == "kmeans":
        assert model.regrouping_.merged > 0
    if size is None or clustering == "kmeans":
        [record] = caplog.records
        assert record.levelname == "INFO"
        text = f"asks for 81 groups, {len(counts)} are made: with at least {least} samples (min_group_size; "
        assert text + f"{model.regrouping_.merged} smaller" in record.message


def test_extreme_ratios_are_bounded_and_said(caplog):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4001, 2)), np.repeat([0, 1], [4000, 1])
    model = random_groups(KNeighborsClassifier()).fit(x, y)
    assert model.n_pseudo_classes_ == 201
    assert caplog.records[0].levelname == "WARNING"
    assert "asks for 4001 groups, 201 are made" in caplog.text and "at most 200 of a class (max_groups)" in caplog.text
    assert random_groups(KNeighborsClassifier(), max_groups=30).fit(x, y).n_pseudo_classes_ == 31
    with pytest.raises(ValueError, match="max_groups=0: must be at least 1"):
        random_groups(max_groups=0).fit(x, y)
    with pytest.raises(ValueError, match="min_size=-1: must be at least 0"):
        random_groups(min_group_size=-1).fit(x, y)


@pytest.mark.parametrize(
    "inner",
    [
        HistGradientBoostingClassifier(max_iter=1, early_stopping=True, max_leaf_nodes=3),
        make_pipeline(StandardScaler(), SGDClassifier(early_stopping=True, max_iter=5, tol=None)),
        CalibratedClassifierCV(LogisticRegression(), cv=4, ensemble=False),
    ],
)
@pytest.mark.parametrize("min_group_size", [1, None])
def test_what_fits_alone_fits_inside(inner, min_group_size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(306, 2)), np.repeat(["a", "b"], [300, 6])
    inner.fit(x, y)
    model = random_groups(inner, min_group_size=min_group_size).fit(x, y)
    assert model.n_pseudo_classes_ > 2
    assert set(model.predict(x)) <= {"a", "b"}


@pytest.mark.long
def test_gradient_boosting_stops_early_beside_an_outlier():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12_001, 3)), np.repeat([0, 1], [11_999, 2])
    x[0] = 1e3
    inner = HistGradientBoostingClassifier(max_iter=2, max_leaf_nodes=3)
    model = RegroupClassifier(inner, n_init=1, random_state=0).fit(x, y)
    assert model.estimator_.n_iter_ >= 1
    assert 2 < model.n_pseudo_classes_ <= 201


def work_in_fork(model, x, y, results):
    results.put((model.predict(x) == y).mean())
    for clustering in ("random", "kmeans"):
        try:
            results.put(RegroupClassifier(clustering=clustering, random_state=0).fit(x, y).score(x, y))
        except RuntimeError as error:
            results.put(str(error))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_forked_process_predicts_and_is_refused_k_means(data):
    x, y, _ = data
    model = RegroupClassifier(random_state=0).fit(x, y)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=work_in_fork, args=(model, x, y, results))
    process.start()
    predicted, fitted, refused = (results.get(timeout=60) for _ in range(3))
    process.join(60)
    assert process.exitcode == 0
    assert predicted == model.score(x, y) and fitted > 0.5
    assert "forked after JAX started; start processes by spawn" in refused


@pytest.mark.long
def test_workers_of_loky_fit_after_a_fit():
    program = """
import numpy as np
from sklearn.model_selection import cross_val_score
from rgjax.regroup import RegroupClassifier

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 2)), np.repeat([0, 1], [80, 20])
    model = RegroupClassifier(random_state=0, n_init=1).fit(x, y)
    alone = cross_val_score(model, x, y, cv=2)
    assert (cross_val_score(model, x, y, cv=2, n_jobs=2) == alone).all()
    print("equal")
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.stdout == "equal\n", ran.stderr
