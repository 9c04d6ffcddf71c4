import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from rgjax import metrics


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(12, 80), levels=st.sampled_from([2, 5, 10**6]))
def test_every_figure_equals_scikit_learn_with_and_without_ties(seed, n, levels):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, n - 3)])
    scores = rng.integers(0, levels, (n, 3)) / 7
    guess = scores.argmax(axis=1)
    for c in range(3):
        ap = reference.average_precision_score(labels == c, scores[:, c])
        assert metrics.average_precision(scores, labels)[c] == pytest.approx(ap, abs=1e-12)
        assert metrics.auroc(scores, labels)[c] == pytest.approx(reference.roc_auc_score(labels == c, scores[:, c]))
    assert metrics.balanced_accuracy(labels, guess, 3) == pytest.approx(
        reference.balanced_accuracy_score(labels, guess)
    )
    expected = reference.confusion_matrix(labels, guess, labels=range(3))
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, guess, 3), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", ["normal", "skewed", "tied", "outlier", "constant"])
def test_ap_is_exact_for_many_rows_of_every_distribution(dtype, shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 6000)
    scores = rng.normal(size=(6000, 4)) + np.eye(4)[labels]
    scores = {
        "normal": scores,
        "skewed": np.exp(6 * scores),
        "tied": np.round(scores, 1),
        "outlier": np.where(np.arange(6000)[:, None] == 7, 1e20, scores),
        "constant": np.ones_like(scores),
    }[shape].astype(dtype)
    expected = [reference.average_precision_score(labels == c, scores[:, c]) for c in range(3)]
    found = metrics.average_precision(scores, labels)
    np.testing.assert_allclose(found[:3], expected, atol=1e-12)
    assert np.isnan(found[3])


def test_log_odds_rank_where_probabilities_saturate():
    logits = np.array([[0, 60.0], [0, 80.0], [0, -60.0]])
    np.testing.assert_allclose(metrics.log_odds(logits)[:, 1], [60, 80, -60])


def test_an_absent_class_is_none_and_left_out_of_the_mean():
    logits = np.random.default_rng(0).normal(size=(30, 3))
    result = metrics.evaluate(logits, np.arange(30) % 2, ("a", "b", "c"))
    assert result["ap"]["c"] is None
    assert result["macro_ap"] == pytest.approx((result["ap"]["a"] + result["ap"]["b"]) / 2)


@pytest.mark.parametrize("constant", [False, True])
def test_one_class_alone_has_figures_that_are_defined_or_none(constant):
    logits = np.random.default_rng(0).normal(size=(4, 3)) * (not constant)
    result = metrics.evaluate(logits, np.full(4, 2), ("a", "b", "c"))
    json.dumps(result, allow_nan=False)
    assert result["ap"] == {"a": None, "b": None, "c": 1.0}
    assert result["ba"] == (logits.argmax(axis=1) == 2).mean()
    assert result["macro_auroc"] is None


def test_intervals_hold_the_estimate_and_follow_the_seed():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + np.eye(3)[labels]
    result = metrics.evaluate(logits, labels, ("a", "b", "c"))
    assert result["ba_ci"][0] < result["ba"] < result["ba_ci"][1]
    assert result["ap_ci"]["b"][0] < result["ap"]["b"] < result["ap_ci"]["b"][1]
    assert metrics.evaluate(logits, labels, ("a", "b", "c")) == result


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="finite"):
        metrics.evaluate(np.full((2, 2), np.nan), np.array([0, 1]), ("a", "b"))
