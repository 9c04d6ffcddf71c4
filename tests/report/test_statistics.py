"""Intervals, adjusted p-values and ranks against SciPy, worked examples and Demsar's table."""

import numpy as np
import pytest
from scipy import stats

from rgjax.report.statistics import Estimate, Ranks, estimate_mean, holm, rank_methods
from tests.resampled import simulate


def test_independent_runs_have_students_interval():
    values = np.random.default_rng(0).normal(0.3, 1, 7)
    test, estimate = stats.ttest_1samp(values, 0), estimate_mean(values.tolist())
    assert estimate.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert (estimate.mean, estimate.p, estimate.n) == (pytest.approx(values.mean()), pytest.approx(test.pvalue), 7)


def test_the_variance_of_resampled_scores_is_corrected():
    # Ten folds and a quarter as many test as training examples: s^2 = 55/6 = 9.1667, (1/10 + 1/4) s^2 = 1.7912^2, and
    # t_9 = 2.2622 makes 5.5 +- 4.0520; t = 5.5 / 1.7912 = 3.0706.
    estimate = estimate_mean([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], overlap=0.25)
    assert estimate.interval == pytest.approx((5.5 - 4.0520, 5.5 + 4.0520), abs=1e-3)
    assert estimate.p == pytest.approx(2 * stats.t.sf(3.0706, 9), rel=1e-3)


@pytest.mark.parametrize("values", [[0.2], [0.2, 0.2, 0.2], [0.0, 0.0], [0.1 + 0.2, 0.3]])
def test_one_value_and_equal_values_tell_nothing_of_certainty(values):
    estimate = estimate_mean(values, overlap=0.25)
    assert (estimate.interval, estimate.p, estimate.differs) == (None, None, False)


def test_a_reversed_difference_has_the_reversed_interval():
    assert -Estimate(0.1, (-0.1, 0.3), 0.4, 3) == Estimate(-0.1, (-0.3, 0.1), 0.4, 3)
    assert -Estimate(0.1, None, None, 1) == Estimate(-0.1, None, None, 1)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2, None, 0.6, 0.7], [0.6, None, 1.0, 1.0]),
        ([0.04], [0.04]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holms_adjustment(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_friedmans_p_value_equals_scipys_where_its_approximation_holds():
    scores = np.random.default_rng(1).normal([0, 0, 0.2, 0.4], size=(40, 4))
    expected = stats.friedmanchisquare(*scores.T).pvalue
    assert 0.01 < expected < 0.5
    assert rank_methods(scores).p == pytest.approx(expected, abs=0.015)


def test_few_data_sets_can_give_no_small_p_value():
    # Of the 36 pairs of orders of three methods, 6 agree.
    assert rank_methods(np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])).p == pytest.approx(1 / 6, abs=0.015)
    assert rank_methods(np.array([[0.9, 0.8], [0.6, 0.5]])).p == 0.5


def test_two_methods_are_compared_by_wilcoxons_test():
    scores = np.random.default_rng(2).normal([0.5, 0], size=(12, 2))
    assert rank_methods(scores).p == stats.wilcoxon(scores[:, 0] - scores[:, 1]).pvalue
    assert rank_methods(np.ones((5, 2))).p == 1


def test_equal_scores_share_their_mean_rank():
    ranks = rank_methods(np.array([[0.5, 0.5, 0.9], [0.1, 0.2, 0.3]]))
    assert ranks.means == (2.75, 2.25, 1.0)


def test_critical_differences_are_those_of_demsars_table_5():
    nemenyi = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for k, q in nemenyi.items():
        critical = rank_methods(np.random.default_rng(0).normal(size=(6, k))).critical_difference
        assert critical / np.sqrt(k * (k + 1) / 36) == pytest.approx(q, abs=1e-3)


@pytest.mark.parametrize(
    ("critical_difference", "cliques"),
    [(0.4, []), (0.6, [[3, 1], [1, 0]]), (1.1, [[3, 1, 0]]), (1.6, [[3, 1, 0], [0, 2]]), (3.0, [[3, 1, 0, 2]])],
)
def test_cliques_are_the_largest_sets_within_the_critical_difference(critical_difference, cliques):
    ranks = Ranks((2.0, 1.5, 3.5, 1.0), 0.01, critical_difference, 10)
    assert list(ranks.cliques()) == cliques


@pytest.mark.long
def test_corrected_intervals_contain_the_true_difference_of_two_learners():
    """200 simulations have a standard error of 1.5 points; tests/README.md has more."""
    corrected, _, plain, _ = simulate("5 splits", "AP", 200, 200, np.random.default_rng(0))
    assert 0.91 <= corrected <= 0.985
    assert plain < 0.9
