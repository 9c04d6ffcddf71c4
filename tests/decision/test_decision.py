"""Decisions on Gaussian mixtures with known posteriors, against scikit-learn's, and at the edges."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import TunedThresholdClassifierCV

from rgjax.decision import FILE, Decision, fit_decision, read_decision
from rgjax.decision.calibration import best_temperature, bias_corrected
from rgjax.decision.offsets import best_offsets
from rgjax.errors import UserError
from rgjax.metrics import balanced_accuracy
from rgjax.storage.files import write_json
from tests.support.mixtures import Mixture


def names(logits):
    return [f"c{c}" for c in range(logits.shape[1])]


def fit(labels, logits, **goal):
    return fit_decision(logits, labels, names(logits), **goal)


def ba(labels, predictions):
    return balanced_accuracy(labels, predictions, int(labels.max()) + 1)


@pytest.mark.parametrize("mixture", [Mixture(), Mixture(7, 60), Mixture(7, 60, bias=1)], ids=str)
def test_of_2000_examples_ba_is_that_of_bayes(mixture):
    gaps = []
    for seed in range(5):
        val, (labels, logits, best) = mixture.draw(seed, 2000, 21_000, balanced=True)
        gaps.append(ba(labels, best.argmax(axis=1)) - ba(labels, fit(*val[:2]).predict(logits)))
    assert np.mean(gaps) < 0.003 and max(gaps) < 0.005


@pytest.mark.parametrize("mixture", [Mixture(), Mixture(7, 60), Mixture(7, 60, noise=1)], ids=str)
def test_of_50_examples_ba_is_above_that_of_the_argmax(mixture):
    gains = []
    for seed in range(20):
        val, (labels, logits, _) = mixture.draw(seed, 50, 7000, balanced=True)
        gains.append(ba(labels, fit(*val[:2]).predict(logits)) - ba(labels, logits.argmax(axis=1)))
    assert np.mean(gains) > 0.02 and np.quantile(gains, 0.1) > -0.05


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_generating_one(temperature):
    [(labels, logits, _)] = Mixture(7, 20, temperature=temperature).draw(0, 50_000)
    assert fit(labels, logits).temperature == pytest.approx(temperature, rel=0.02)


def test_calibration_has_the_highest_posterior():
    [(labels, logits, _)] = Mixture(3, 10, temperature=3, bias=1).draw(0, 300)
    logits, rows = logits - logits.max(axis=1, keepdims=True), np.arange(300)
    temperature = best_temperature(logits, labels)
    best, biases, probabilities = bias_corrected(logits, labels, temperature)
    np.testing.assert_allclose(probabilities, softmax(logits / best + biases, axis=1), atol=1e-9)

    def posterior(t, biases):
        likelihood = log_softmax(logits / t + biases, axis=1)[rows, labels].sum()
        return likelihood - np.log(t / temperature) ** 2 / 18 - (np.array(biases) ** 2).sum() / 8

    for step in (0.9, 1.1):
        nll = [-log_softmax(logits / t, axis=1)[rows, labels].mean() for t in (temperature, step * temperature)]
        assert nll[0] < nll[1]
        assert posterior(best, biases) > posterior(step * best, biases)
        assert posterior(best, biases) > posterior(best, step * biases)


def one_hot_gains(labels, classes):
    return np.eye(classes)[labels] / np.bincount(labels, minlength=classes)


def test_offsets_of_two_classes_are_the_best_of_all():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, log_probs = (
            rng.permutation(np.arange(40) % 7 == 0).astype(int),
            log_softmax(rng.integers(0, 9, (40, 2)), 1),
        )
        offsets = best_offsets(log_probs, labels, one_hot_gains(labels, 2), {}, [np.zeros(2)])
        cuts = np.arange(-10, 11) + 0.5
        best = max(ba(labels, (log_probs + np.array([0, cut])).argmax(axis=1)) for cut in cuts)
        assert ba(labels, (log_probs + offsets).argmax(axis=1)) == pytest.approx(best)


def test_no_other_offset_of_one_class_is_better():
    [(labels, logits, _)] = Mixture(4, 10, 2).draw(3, 200)
    log_probs, gains = log_softmax(logits, axis=1), one_hot_gains(labels, 4)
    offsets = best_offsets(log_probs, labels, gains, {}, [np.zeros(4)])
    reached = ba(labels, (log_probs + offsets).argmax(axis=1))
    for c in range(1, 4):
        for change in np.linspace(-9, 9, 400):
            assert ba(labels, (log_probs + offsets + change * np.eye(4)[c]).argmax(axis=1)) <= reached * 1.001


def test_many_examples_outweigh_wrong_probabilities():
    """Logits of a class in two clusters, whose likelihood leads astray: the labels decide."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40_000)
    x = np.where(labels == 1, rng.choice([1.0, 30.0], 80_000), 0.0) + rng.normal(size=80_000)
    decision = fit(labels, np.stack([0 * x, x + 4], axis=1))
    predictions = decision.predict(np.stack([0 * x, x + 4], axis=1))
    assert ba(labels, predictions) > ba(labels, (x > 0.5).astype(int)) - 0.002


@pytest.fixture(scope="module")
def splits():
    """Twenty: a classifier, its validation and test inputs and labels, of two classes."""
    made = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = (rng.random(5000) < 0.08).astype(int)
        x = rng.normal(size=(5000, 10)) + 0.6 * labels[:, None] * (np.arange(10) < 4)
        model = LogisticRegression(C=1e6).fit(x[:150], labels[:150] | (np.arange(150) < 2))
        made.append((model, x[150:950], labels[150:950], x[950:], labels[950:]))
    return made


def of_scores(model, x):
    scores = model.decision_function(x)
    return np.stack([0 * scores, scores], axis=1)


@pytest.mark.long
def test_ba_is_that_of_scikit_learns_tuned_thresholds_or_better(splits):
    ours, theirs = [], []
    for model, x_val, y_val, x, y in splits:
        tuned = TunedThresholdClassifierCV(
            FrozenEstimator(model), scoring="balanced_accuracy", cv="prefit", refit=False
        )
        theirs.append(ba(y, tuned.fit(x_val, y_val).predict(x)))
        ours.append(ba(y, fit(y_val, of_scores(model, x_val)).predict(of_scores(model, x))))
    assert np.mean(ours) >= np.mean(theirs) and np.sum(np.greater_equal(ours, theirs)) >= 12


@pytest.mark.long
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_likelihood_is_that_of_scikit_learns_calibration_or_better(splits, method):
    ours, theirs = [], []
    for model, x_val, y_val, x, y in splits:
        calibrated = CalibratedClassifierCV(FrozenEstimator(model), method=method).fit(x_val, y_val)
        theirs.append(log_loss(y, calibrated.predict_proba(x)))
        ours.append(log_loss(y, fit(y_val, of_scores(model, x_val)).probabilities(of_scores(model, x))))
    assert np.mean(ours) <= np.mean(theirs) and np.mean(np.subtract(ours, theirs) < 5e-4) > 0.9


def test_costs_move_the_point():
    val, test = Mixture(3, 10).draw(0, 2000, 20_000)
    costs = np.array([[0, 5, 9], [1, 0, 9], [1, 1, 0]], float)

    def mean_cost(decision, sample):
        return costs[sample[0], decision.predict(sample[1])].mean()

    decision, plain = fit(*val[:2], costs=costs), fit(*val[:2])
    argmax = replace(plain, offsets=np.zeros(3))
    assert decision.rule == "costs"
    for sample in (val, test):
        assert mean_cost(decision, sample) < 0.95 * min(mean_cost(plain, sample), mean_cost(argmax, sample))
    scaled = fit(*val[:2], costs=1000 * costs)
    np.testing.assert_allclose(scaled.offsets, decision.offsets)


def test_recalls_are_reached_with_the_best_ba():
    [(labels, logits, _)] = Mixture(4, 10).draw(0, 2000)
    goal = {"c3": 0.9, "c1": 0.5}
    decision = fit(labels, logits, min_recall=goal)
    predictions = decision.predict(logits)
    recalls = [(predictions == c)[labels == c].mean() for c in range(4)]
    assert decision.rule == "recall"
    assert recalls[3] >= 0.9 and recalls[1] >= 0.5
    assert 0.3 < ba(labels, predictions) <= ba(labels, fit(labels, logits).predict(logits)) + 0.01


def test_recalls_that_cannot_all_be_reached_are_missed_by_little():
    [(labels, logits, _)] = Mixture(2, 10).draw(0, 500)
    predictions = fit(labels, logits, min_recall={"c0": 1.0, "c1": 1.0}).predict(logits)
    assert ba(labels, predictions) > ba(labels, logits.argmax(axis=1))


def test_the_order_of_classes_and_a_shift_of_examples_change_nothing():
    [(labels, logits, _)] = Mixture(4, 10).draw(0, 400)
    order, decision = np.array([2, 0, 3, 1]), fit(labels, logits)
    moved = fit(np.argsort(order)[labels], logits[:, order] + np.arange(400)[:, None])
    np.testing.assert_allclose(moved.offsets, decision.offsets[order], atol=1e-4)
    np.testing.assert_allclose(moved.biases, decision.biases[order], atol=1e-4)
    assert moved.temperature == pytest.approx(decision.temperature, rel=1e-4)


def test_the_scale_of_the_logits_changes_no_label():
    val, (_, logits, _) = Mixture(3, 10).draw(0, 400, 2000)
    predictions = fit(*val[:2]).predict(logits)
    for scale in (0.01, 100):
        scaled = fit(val[0], scale * val[1]).predict(scale * logits)
        assert (scaled == predictions).mean() > 0.999


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["one class", "absent class", "one example", "constant", "separable", "huge", "ties"])
def test_any_logits_give_a_decision(kind):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 30), rng.normal(size=(30, 3))
    match kind:
        case "one class":
            labels[:] = 1
        case "absent class":
            labels[labels == 2] = 0
        case "one example":
            labels, logits = labels[:1], logits[:1]
        case "constant":
            logits[:] = 0
        case "separable":
            logits = 10.0 * np.eye(3)[labels]
        case "huge":
            logits *= 1e30
        case "ties":
            logits = rng.integers(0, 2, (30, 3)).astype(np.float32)
    decision = fit(labels, logits)
    assert np.isfinite(decision.offsets).all() and np.isfinite(decision.probabilities(logits)).all()
    assert np.abs(decision.offsets).max() < 10 * max(np.ptp(logits, axis=1).max(), 1)
    if kind == "separable":
        assert (decision.predict(logits) == labels).all() and decision.temperature > 0.1


def test_a_tie_goes_to_the_lower_class():
    decision = Decision(("a", "b"), np.zeros(2), 2.0, np.array([0.0, 0.5]), "balanced accuracy")
    assert decision.predict(np.array([[1.0, 1.0], [1.0, 1.5]])).tolist() == [0, 1]
    assert replace(decision, offsets=np.array([0.0, 1.0])).predict(np.array([[1.5, 1.0]])).tolist() == [1]
    np.testing.assert_allclose(decision.probabilities(np.array([[2.0, 0.0]])), softmax([[1.0, 0.5]], axis=1))


def test_decisions_are_read_as_written(tmp_path):
    decision = Decision(("b", "a"), np.array([0.0, 1 / 3]), 1.7, np.array([0.5, 0.1]), "costs")
    write_json(tmp_path / FILE, {"rule": "costs", "by_aggregation": {"max": decision.as_json()}})
    read = read_decision(tmp_path, "max")
    assert (read.class_names, read.temperature, read.rule) == (("b", "a"), 1.7, "costs")
    np.testing.assert_array_equal(read.offsets, decision.offsets)
    np.testing.assert_array_equal(read.biases, decision.biases)


def test_older_and_damaged_runs_are_a_users_errors(tmp_path):
    with pytest.raises(UserError, match=r"holds no decision.json, .* train it again"):
        read_decision(tmp_path, "max")
    for content in ("", "[]", "{}", json.dumps({"rule": "costs", "by_aggregation": {"max": {"offsets": [1]}}})):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(UserError, match="damaged"):
            read_decision(tmp_path, "max")
