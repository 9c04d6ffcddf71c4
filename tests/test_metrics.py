import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit, softmax
from scipy.stats import binomtest
from sklearn import metrics as reference

from rgjax import metrics
from tests import intervals
from tests.support.score_models import MODELS, coverage, draw


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
    assert result["macro_ap_ci"][0] < result["macro_ap"] < result["macro_ap_ci"][1]
    assert metrics.evaluate(logits, labels, ("a", "b", "c")) == result


# A percentile bootstrap covers 85, 73, 91 and 90 % of them.
@pytest.mark.parametrize(
    ("model", "ap", "prevalence", "positives"),
    [
        ("equal variances", 0.8, 0.1, 10),
        ("mixture", 0.95, 0.1, 20),
        ("narrower positives", 0.5, 0.1, 20),
        ("equal variances", 0.2, 0.05, 20),
    ],
)
def test_ap_intervals_cover_what_they_say(model, ap, prevalence, positives):
    scores, positive = draw(MODELS[model], ap, prevalence, positives, 400, np.random.default_rng(0))
    intervals, _ = metrics.ap_intervals(scores, np.repeat(positive[:, None], 400, axis=1))
    share, width = coverage(intervals, ap)
    assert 0.92 < share < 0.99  # the standard error is .01
    assert width < 5 * np.sqrt(ap * (1 - ap) / positives)


@pytest.mark.parametrize(
    ("sizes", "recalls"),
    [
        ((2000, 10), (0.99, 0.95)),
        ((10,) * 20, (0.95,) * 20),
        ((2,) * 100, (0.8,) * 100),
        ((400, 90, 9), (0.9, 0.5, 0.1)),
    ],
)
def test_ba_intervals_cover_what_they_say(sizes, recalls):
    correct = np.random.default_rng(0).binomial(sizes, recalls, (2000, len(sizes)))
    share, _ = coverage(metrics.ba_interval(correct, np.array(sizes)), np.mean(recalls))
    assert 0.91 < share < 0.98


@pytest.mark.long
def test_macro_ap_intervals_cover_what_they_say():
    """All classes are alike, so that the macro AP is the AP of one of them: on average, that of many examples."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(4), 15)

    def logits(labels):
        return rng.normal(size=(len(labels), 4)) + 1.5 * np.eye(4)[labels]

    many = np.repeat(np.arange(4), 30_000)
    truth = metrics.average_precision(metrics.log_odds(logits(many)), many).mean()
    intervals = [metrics.confidence_intervals(logits(labels), labels)["macro_ap"] for _ in range(150)]
    assert 0.9 < coverage(np.array(intervals), truth)[0] < 0.99


@pytest.mark.parametrize("correct", [0, 1, 7, 12])
def test_the_interval_of_one_recall_is_wilsons(correct):
    expected = binomtest(correct, 12).proportion_ci(0.9, method="wilson")
    interval = metrics.ba_interval(np.array([correct]), np.array([12]), level=0.9)
    np.testing.assert_allclose(interval, expected, atol=1e-9)


@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_jackknife_is_that_of_scikit_learn(levels):
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, levels, 30) / 7, np.arange(30) < 9
    ap, bias, deviations = metrics._jackknife(scores, positive)
    assert ap == pytest.approx(reference.average_precision_score(positive, scores))
    expected_bias = 0.0
    for group in (positive, ~positive):
        n, values = group.sum(), []
        for left_out in np.flatnonzero(group):
            kept = np.arange(30) != left_out
            weights = np.where(group, n / (n - 1), 1.0)[kept]  # the prevalence stays
            values.append(reference.average_precision_score(positive[kept], scores[kept], sample_weight=weights))
        expected_bias += (n - 1) * (np.mean(values) - ap)
        assert (deviations[group] ** 2).sum() == pytest.approx((n - 1) * np.var(values))
        np.testing.assert_allclose(deviations[group], np.sqrt(1 - 1 / n) * (np.array(values) - np.mean(values)))
    assert bias == pytest.approx(expected_bias)


def test_intervals_shrink_with_the_number_of_examples_and_the_level():
    widths = []
    for n in (5, 20, 80, 320):
        scores, positive = draw(MODELS["equal variances"], 0.6, 0.2, n, 20, np.random.default_rng(0))
        positives = np.repeat(positive[:, None], 20, axis=1)
        intervals = [metrics.ap_intervals(scores, positives, level=level)[0] for level in (0.5, 0.95)]
        narrow, wide = (float(np.diff(interval, axis=1).mean()) for interval in intervals)
        assert narrow < 0.6 * wide
        widths.append(wide)
    np.testing.assert_array_less(np.array(widths[1:]), 0.75 * np.array(widths[:-1]))
    assert widths[-1] < 0.6 * widths[-2] + 0.01


@pytest.mark.parametrize("recalls", [(0, 0), (8, 500), (0, 500), (8, 0)])
def test_ba_intervals_of_extreme_recalls_have_a_width(recalls):
    low, high = metrics.ba_interval(np.array(recalls), np.array([8, 500]))
    assert 0 <= low <= np.mean(np.array(recalls) / [8, 500]) <= high <= 1
    assert high - low > 0.05


@pytest.mark.parametrize(
    ("positive", "scores", "interval"),
    [
        ([1] * 5, [1, 2, 3, 4, 5], (1, 1)),  # without negatives, any ranking is perfect
        ([1] + [0] * 9, range(10, 0, -1), (0.2, 1)),  # one positive: Wilson's interval of one success
        ([1] + [0] * 9, range(10), (0, 0.82)),
        ([1] * 10 + [0] * 90, range(100, 0, -1), (0.72, 1)),  # a perfect ranking: that of ten successes
        ([1] * 20 + [0] * 20, [0.5] * 40, (0.29, 0.71)),  # all tied
        ([1] * 4 + [0], [4, 3, 2, 1, 0], (0.5, 1)),  # one negative
    ],
)
def test_degenerate_rankings_have_plausible_intervals(positive, scores, interval):
    columns = np.array(positive, bool)[:, None], np.array(list(scores), float)[:, None]
    (actual,), mean = metrics.ap_intervals(columns[1], columns[0])
    np.testing.assert_allclose(actual, interval, atol=0.06)
    np.testing.assert_allclose(mean, actual, atol=1e-9)


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
def test_intervals_know_ranks_alone_and_no_order_of_examples_and_classes(table):
    scores, labels = table
    expected = metrics.confidence_intervals(scores, labels, scores=scores.astype(np.float64))
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
    examples, classes = np.random.default_rng(0).permutation(len(labels)), np.array([2, 0, 1])
    changed = np.argsort(classes)[labels[examples]]
    actual = metrics.confidence_intervals(
        scores[examples][:, classes], changed, scores=np.exp(ranks / 20)[examples][:, classes]
    )
    np.testing.assert_allclose(actual["ap"], expected["ap"][classes], atol=1e-9)
    np.testing.assert_allclose(actual["macro_ap"], expected["macro_ap"], atol=1e-9)


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
    for name in ("ba", "macro_ap"):
        assert result[f"{name}_ci"][0] - 1e-9 <= result[name] <= result[f"{name}_ci"][1] + 1e-9
    for name in present:
        assert result["ap_ci"][name][0] <= result["ap"][name] <= result["ap_ci"][name][1]
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


@pytest.mark.long
def test_the_coverage_tables_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(intervals, "POSITIVES", (10,))
    monkeypatch.setattr(intervals, "PREVALENCES", (0.5,))
    monkeypatch.setattr(intervals, "COMPARED", ((10, 0.5),))
    monkeypatch.setattr(intervals, "MACRO_CASES", {"3 classes of 5": (5,) * 3})
    monkeypatch.setattr("sys.argv", ["intervals", "--simulations=50"])
    intervals.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ---") for line in lines) == 5
    assert any(line.startswith("| 10 | 50 % | 0.95 | ") for line in lines)
