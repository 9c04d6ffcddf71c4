import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit, softmax
from sklearn import metrics as reference

from rgjax import metrics


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(12, 80), levels=st.sampled_from([2, 5, 10**6]))
def test_metrics_equal_scikit_learns_with_and_without_ties(seed, n, levels):
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


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference, for the widest scores
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", ["normal", "skewed", "tied", "outlier", "constant", "widest"])
def test_ap_is_exact_for_every_distribution_of_scores(dtype, shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 6000)
    scores = rng.normal(size=(6000, 4)) + np.eye(4)[labels]
    scores = {
        "normal": scores,
        "skewed": np.exp(6 * scores),
        "tied": np.round(scores, 1),
        "outlier": np.where(np.arange(6000)[:, None] == 7, 1e20, scores),
        "constant": np.ones_like(scores),
        "widest": np.sign(scores) * np.finfo(dtype).max,
    }[shape].astype(dtype)
    expected = [reference.average_precision_score(labels == c, scores[:, c]) for c in range(3)]
    ap = metrics.average_precision(scores, labels)
    np.testing.assert_allclose(ap[:3], expected, atol=1e-12)
    assert np.isnan(ap[3])


def test_log_odds_rank_where_probabilities_saturate():
    logits = np.array([[0, 60.0], [0, 80.0], [0, -60.0]])
    np.testing.assert_allclose(metrics.log_odds(logits)[:, 1], [60, 80, -60])


def test_absent_classes_are_none_and_excluded_from_the_mean():
    logits = np.random.default_rng(0).normal(size=(30, 3))
    result = metrics.evaluate(logits, np.arange(30) % 2, ("a", "b", "c"))
    assert result["ap"]["c"] is None
    assert result["macro_ap"] == pytest.approx((result["ap"]["a"] + result["ap"]["b"]) / 2)


@pytest.mark.parametrize("constant", [False, True])
def test_a_single_class_has_defined_metrics_or_none(constant):
    logits = np.random.default_rng(0).normal(size=(4, 3)) * (not constant)
    result = metrics.evaluate(logits, np.full(4, 2), ("a", "b", "c"))
    json.dumps(result, allow_nan=False)
    assert result["ap"] == {"a": None, "b": None, "c": 1.0}
    assert result["ba"] == (logits.argmax(axis=1) == 2).mean()
    assert result["macro_auroc"] is None


def test_intervals_contain_the_estimate_and_are_reproducible():
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


def table(dtype, values, n=12, num_classes=3):
    """Scores [n, C] with ties, and labels [n] that may lack classes."""
    few = st.lists(values, min_size=1, max_size=6)
    scores = few.flatmap(lambda choices: arrays.arrays(dtype, (n, num_classes), elements=st.sampled_from(choices)))
    return st.tuples(scores, arrays.arrays(np.int32, n, elements=st.integers(0, num_classes - 1)))


def floats(width):
    limit = float(np.finfo(f"f{width // 8}").max)
    tiny = float(np.finfo(f"f{width // 8}").smallest_subnormal)
    return st.sampled_from([limit, -limit, limit / 2, tiny, -tiny, 0.0]) | st.floats(-9, 9, width=width)


tables = (
    table(np.float64, floats(64))
    | table(np.float32, floats(32))
    | table(np.float16, floats(16))
    | table(np.int8, st.integers(-128, 127))
    | table(np.uint8, st.integers(0, 255))
)


@given(tables)
def test_ranking_metrics_of_any_scores_equal_scikit_learns(table):
    scores, labels = table
    ap, areas = metrics.average_precision(scores, labels), metrics.auroc(scores, labels)
    for c in range(scores.shape[1]):
        positive = labels == c
        expected = reference.average_precision_score(positive, scores[:, c]) if positive.any() else np.nan
        np.testing.assert_allclose(ap[c], expected, atol=1e-12)
        expected = reference.roc_auc_score(positive, scores[:, c]) if 0 < positive.sum() < len(positive) else np.nan
        np.testing.assert_allclose(areas[c], expected, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(labels))
    np.testing.assert_allclose(metrics.average_precision(scores[order], labels[order]), ap, atol=1e-12)


@given(tables)
def test_decision_metrics_of_any_scores_equal_scikit_learns(table):
    scores, labels = table
    guess = scores.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, guess, 3)
    np.testing.assert_array_equal(confusion, reference.confusion_matrix(labels, guess, labels=range(3)))
    recall = reference.recall_score(labels, guess, labels=np.unique(labels), average="macro", zero_division=0)
    assert metrics.balanced_accuracy(labels, guess, 3) == pytest.approx(recall)


@given(table(np.float32, floats(32)) | table(np.float16, floats(16)), st.sampled_from([np.int8, np.uint8, np.int64]))
def test_every_metric_is_a_share_or_undefined(table, dtype):
    logits, labels = table
    result = metrics.evaluate(logits, labels.astype(dtype), "abc")
    json.dumps(result, allow_nan=False)
    present = {name for name, count in result["counts"].items() if count}
    shares = [*(result[name] for name in ("ba", "macro_ap", "accuracy")), *result["ba_ci"], *result["macro_ap_ci"]]
    for name in "abc":
        figures = [result["ap"][name], *result["ap_ci"][name]]
        assert (None in figures) == (name not in present)
        shares += figures if name in present else []
    shares += [result["macro_auroc"]] if len(present) > 1 else []
    assert (result["macro_auroc"] is None) == (len(present) == 1)
    assert all(-1e-12 <= share <= 1 + 1e-12 for share in shares)
    for low, high in (result["ba_ci"], result["macro_ap_ci"], *(result["ap_ci"][name] for name in present)):
        assert low <= high
    assert sum(map(sum, result["confusion"])) == result["n"] == len(labels)


@given(table(np.float64, st.floats(-300, 300) | st.sampled_from([1e300, -1e300])), st.floats(-300, 300))
def test_log_odds_rank_like_probabilities_and_ignore_a_common_shift(table, shift):
    logits, _ = table
    odds = metrics.log_odds(logits)
    assert np.isfinite(odds).all()
    np.testing.assert_allclose(metrics.log_odds(logits[:, ::-1])[:, ::-1], odds, rtol=1e-12, atol=1e-12)
    if np.abs(logits).max() <= 300:
        np.testing.assert_allclose(metrics.log_odds(logits + shift), odds, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(expit(odds), softmax(logits, axis=1), rtol=1e-6)
