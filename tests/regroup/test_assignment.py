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


def check(assignment, costs, lower, upper):
    """The bounds, and the proof of optimality: with the duals no move and no change of sizes lowers the cost."""
    sizes = np.bincount(assignment.labels, minlength=len(lower))
    assert (lower <= sizes).all()
    assert (sizes <= upper).all()
    reduced = costs - assignment.duals
    tolerance = 1e-10 * np.abs(costs).max()
    assert (reduced[np.arange(len(costs)), assignment.labels] <= reduced.min(axis=1) + tolerance).all()
    may_shrink, may_grow = assignment.duals[sizes > lower], assignment.duals[sizes < upper]
    assert may_shrink.max(initial=-np.inf) <= may_grow.min(initial=np.inf) + tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_even_sizes_match_the_hungarian_method(kind):
    for seed in range(200):
        costs = problem(seed, kind)
        lower, upper = even(*costs.shape)
        n, k = costs.shape
        # Columns: n // k slots of each cluster and a spare one, of which dummy points fill all but n mod k.
        slots, spare = np.repeat(costs, n // k, axis=1), costs if n % k else costs[:, :0]
        square = np.hstack([slots, spare])
        dummies = np.hstack([np.full(slots.shape, 1e9), np.zeros(spare.shape)])[: square.shape[1] - n]
        rows, columns = linear_sum_assignment(np.vstack([square, dummies]))
        best = np.vstack([square, dummies])[rows, columns].sum()
        duals = np.random.default_rng(seed).normal(size=k) if seed % 2 else None
        assignment = assign(costs, lower, upper, duals=duals)
        assert assignment is not None
        check(assignment, costs, lower, upper)
        assert total(costs, assignment.labels) == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bounded_sizes_match_linear_programming(kind):
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
        assignment = assign(costs, lower, upper, duals=rng.normal(size=k) if seed % 3 else None)
        assert assignment is not None
        check(assignment, costs, lower, upper)
        assert total(costs, assignment.labels) == pytest.approx(best, rel=1e-7, abs=1e-7)


def test_fixed_sizes_count_and_infeasible_bounds_give_none():
    costs = np.array([[0.0, 5.0], [1.0, 2.0], [0.0, 3.0]])
    assignment = assign(costs, np.array([2, 2]), np.array([9, 9]), fixed_sizes=np.array([0, 1]))
    assert assignment is not None
    assert (assignment.labels.tolist(), assignment.paths) == ([0, 1, 0], 1)
    assert assign(costs, np.array([2, 2]), np.array([9, 9])) is None
    assert assign(costs, np.array([0, 0]), np.array([1, 1])) is None


def test_equal_points_move_along_few_paths():
    assignment = assign(np.ones((5000, 50)), *even(5000, 50))
    assert assignment is not None
    assert assignment.paths < 100


COSTS = st.sampled_from([0.0, 1.0, -1.0, 3.0, 1e-12, 1e12]) | st.floats(-9, 9)


@given(
    arrays.arrays(np.float64, (7, 3), elements=COSTS),
    st.sampled_from([1e-300, 1e-200, 1.0, 1e200, 1e290]),
    arrays.arrays(np.int64, 3, elements=st.integers(0, 4)),
    arrays.arrays(np.int64, 3, elements=st.integers(0, 6)),
    arrays.arrays(np.int64, 3, elements=st.integers(0, 3)),
)
def test_any_costs_and_bounds(costs, scale, lower, more, fixed):
    costs, upper = costs * scale, np.maximum(lower + more, fixed)
    assignment = assign(costs, lower, upper, fixed_sizes=fixed)
    points = 7 + fixed.sum()
    if assignment is None:
        assert lower.sum() > points or upper.sum() < points or (np.maximum(lower - fixed, 0).sum() > 7)
        return
    sizes = fixed + np.bincount(assignment.labels, minlength=3)
    assert (lower <= sizes).all() and (sizes <= upper).all()
    reduced = costs - assignment.duals
    assert (reduced[np.arange(7), assignment.labels] <= reduced.min(axis=1) + 1e-10 * np.abs(costs).max()).all()
