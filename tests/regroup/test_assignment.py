import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import LinearConstraint, linear_sum_assignment, milp

from rgjax.regroup.balanced.assignment import assign

KINDS = ("real", "integer", "duplicates", "equal")


def problem(seed, kind):
    """costs [n, k] with more rows than columns."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(6, 30)), int(rng.integers(2, 6))
    if kind == "integer":
        return rng.integers(0, 4, (n, k)).astype(float)
    costs = rng.normal(size=(n, k)) * 10.0 ** rng.integers(-3, 4)
    if kind == "duplicates":
        costs = costs[rng.integers(0, 4, n)]
    return np.ones((n, k)) if kind == "equal" else costs


def even(n, k):
    return np.full(k, n // k), np.full(k, -(-n // k))


def total(costs, labels):
    return costs[np.arange(len(costs)), labels].sum()


def check(found, costs, lower, upper):
    """The bounds, and the proof: by the prices no row pays less elsewhere, and no size would better change."""
    sizes = np.bincount(found.labels, minlength=len(lower))
    assert (lower <= sizes).all()
    assert (sizes <= upper).all()
    paid = costs - found.prices
    tolerance = 1e-10 * np.abs(costs).max()
    assert (paid[np.arange(len(costs)), found.labels] <= paid.min(axis=1) + tolerance).all()
    may_shrink, may_grow = found.prices[sizes > lower], found.prices[sizes < upper]
    assert may_shrink.max(initial=-np.inf) <= may_grow.min(initial=np.inf) + tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_even_sizes_cost_as_little_as_by_the_hungarian_method(kind):
    for seed in range(200):
        costs = problem(seed, kind)
        lower, upper = even(*costs.shape)
        n, k = costs.shape
        # Columns: each cluster's sure places, and one more for each, which dummy rows fill but for n mod k.
        sure, spare = np.repeat(costs, n // k, axis=1), costs if n % k else costs[:, :0]
        square = np.hstack([sure, spare])
        dummies = np.hstack([np.full(sure.shape, 1e9), np.zeros(spare.shape)])[: square.shape[1] - n]
        rows, columns = linear_sum_assignment(np.vstack([square, dummies]))
        best = np.vstack([square, dummies])[rows, columns].sum()
        prices = np.random.default_rng(seed).normal(size=k) if seed % 2 else None
        found = assign(costs, lower, upper, prices=prices)
        assert found is not None
        check(found, costs, lower, upper)
        assert total(costs, found.labels) == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bounded_sizes_cost_as_little_as_by_linear_programming(kind):
    for seed in range(50):
        costs = problem(seed, kind)
        n, k = costs.shape
        rng = np.random.default_rng(seed)
        lower = rng.integers(0, n // k + 1, k)
        upper = lower + rng.integers(0, n, k) if seed % 2 else np.full(k, n)
        upper[0] = n
        each_row, each_cluster = np.kron(np.eye(n), np.ones(k)), np.kron(np.ones(n), np.eye(k))
        bounds = [LinearConstraint(each_row, 1, 1), LinearConstraint(each_cluster, lower, upper)]
        best = milp(costs.ravel(), constraints=bounds).fun
        found = assign(costs, lower, upper, prices=rng.normal(size=k) if seed % 3 else None)
        assert found is not None
        check(found, costs, lower, upper)
        assert total(costs, found.labels) == pytest.approx(best, rel=1e-7, abs=1e-7)


def test_members_that_stay_count_and_bounds_that_cannot_be_filled_are_told():
    costs = np.array([[0.0, 5.0], [1.0, 2.0], [0.0, 3.0]])
    found = assign(costs, np.array([2, 2]), np.array([9, 9]), others=np.array([0, 1]))
    assert found is not None
    assert (found.labels.tolist(), found.paths) == ([0, 1, 0], 1)
    assert assign(costs, np.array([2, 2]), np.array([9, 9])) is None
    assert assign(costs, np.array([0, 0]), np.array([1, 1])) is None


def test_many_equal_points_move_together():
    found = assign(np.ones((5000, 50)), *even(5000, 50))
    assert found is not None
    assert found.paths < 100


COSTS = st.sampled_from([0.0, 1.0, -1.0, 3.0, 1e-12, 1e12]) | st.floats(-9, 9)


@given(
    arrays.arrays(np.float64, (7, 3), elements=COSTS),
    st.sampled_from([1e-300, 1e-200, 1.0, 1e200, 1e290]),
    arrays.arrays(np.int64, 3, elements=st.integers(0, 4)),
    arrays.arrays(np.int64, 3, elements=st.integers(0, 6)),
    arrays.arrays(np.int64, 3, elements=st.integers(0, 3)),
)
def test_any_costs_and_bounds(costs, scale, lower, more, others):
    costs, upper = costs * scale, np.maximum(lower + more, others)
    found = assign(costs, lower, upper, others=others)
    points = 7 + others.sum()
    if found is None:
        assert lower.sum() > points or upper.sum() < points or (np.maximum(lower - others, 0).sum() > 7)
        return
    sizes = others + np.bincount(found.labels, minlength=3)
    assert (lower <= sizes).all() and (sizes <= upper).all()
    paid = costs - found.prices
    assert (paid[np.arange(7), found.labels] <= paid.min(axis=1) + 1e-10 * np.abs(costs).max()).all()
