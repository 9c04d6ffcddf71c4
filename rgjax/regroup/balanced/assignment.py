"""Points assigned to clusters of bounded sizes at the least cost: a minimum-cost flow, solved exactly.

Prices (the dual variables of the sizes) that are nearly right leave few points over; these go along shortest augmenting
paths in the graph of the clusters, where a step from a to b is the cheapest move of a member of a to b. All arithmetic
is exact: costs and prices are rounded to multiples of a power of two, of which float64 holds the sum of any path.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MANTISSA = 52  # bits


class Assignment(NamedTuple):
    """labels [n] int32, dual prices [k] float64, and the number of augmenting paths that it took."""

    labels: np.ndarray
    prices: np.ndarray
    paths: int


def assign(
    costs: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    prices: np.ndarray | None = None,
    others: np.ndarray | int = 0,
) -> Assignment | None:
    """The labels with the least sum of `costs` [n, k] for which lower <= size <= upper in every cluster [k].

    A cluster's size is the number of its rows and of the `others` [k] that stay in it. Any `prices` [k] give the same
    cost; good ones save work, and decide between assignments of equal cost. Every row pays least, costs - prices, in
    its cluster by the prices that are returned, which is the proof. None where the rows cannot fill the bounds.
    """
    k = costs.shape[1]
    start = np.zeros(k) if prices is None else prices
    unit = _unit(max(np.abs(costs).max(initial=0), np.abs(start).max()), k)
    costs, start = np.round(costs / unit) * unit, np.round(start / unit) * unit
    flow = _Flow(costs, (costs - start).argmin(axis=1), np.broadcast_to(others, k))
    paths, potentials = 0, start
    while True:
        over, under = flow.sizes > upper, flow.sizes < lower
        settled = not (over.any() or under.any())
        leave = flow.sizes - (upper if over.any() else lower)  # points that each cluster may lose or must
        enter = (lower if under.any() else upper) - flow.sizes
        begin, goals = np.where(leave > 0, 0, np.inf), enter > 0
        if settled:
            lengths, before = _shortest_paths(flow.steps, begin)
            ends = np.flatnonzero(goals & (lengths < 0))
        else:
            # By the potentials no step has a negative length, so that the search ends at the first goal.
            reduced = flow.steps + potentials[:, None] - potentials
            lengths, before = _shortest_paths(reduced, begin, goals)
            nearest = lengths[goals].min(initial=np.inf)
            ends = np.flatnonzero(goals & (lengths == nearest) & np.isfinite(lengths))
            potentials = potentials + np.minimum(lengths, nearest)
        if not len(ends):
            break
        for path in _disjoint(ends[np.argsort(lengths[ends], kind="stable")], before):
            flow.push(path, int(min(leave[path[0]], enter[path[-1]])))
            paths += 1
    if not settled:
        return None
    return Assignment(flow.labels.astype(np.int32), _potentials(flow, start, lower, upper), paths)


def _unit(largest: float, k: int) -> float:
    """A power of two: sums of 2k numbers up to `largest` are exact in its multiples."""
    return 2.0 ** (int(np.frexp(largest)[1]) + int(4 * k).bit_length() - MANTISSA) if largest else 1.0


class _Flow:
    """An assignment that is the cheapest for its own sizes: no cycle of steps has a negative length."""

    def __init__(self, costs: np.ndarray, labels: np.ndarray, others: np.ndarray):
        k = len(others)
        self.labels, self._costs = labels, costs
        self.sizes = others + np.bincount(labels, minlength=k)
        self.steps = np.full((k, k), np.inf)  # from cluster, to cluster
        self._rises = costs - costs[np.arange(len(labels)), labels, None]  # what it costs to move each row
        self._refresh(np.arange(len(labels)))

    def push(self, path: list[int], most: int) -> None:
        """Move as many points along all arcs of the path as each arc has at the length of its step, up to `most`."""
        goals = np.full(len(self.sizes), -1)
        goals[path[:-1]] = path[1:]
        rows = np.flatnonzero(goals[self.labels] >= 0)
        origins = self.labels[rows]
        cheapest = self._rises[rows, goals[origins]] == self.steps[origins, goals[origins]]
        movers, _, first, counts = _by_cluster(rows[cheapest], origins[cheapest])
        amount = min(most, int(counts.min()))
        moved = movers[np.arange(len(movers)) - np.repeat(first, counts) < amount]
        self.labels[moved] = goals[self.labels[moved]]
        self._rises[moved] = self._costs[moved] - self._costs[moved, self.labels[moved], None]
        self.sizes[path[0]] -= amount
        self.sizes[path[-1]] += amount
        self.steps[path] = np.inf
        changed = np.zeros(len(self.sizes), bool)
        changed[path] = True
        self._refresh(np.flatnonzero(changed[self.labels]))

    def _refresh(self, rows: np.ndarray) -> None:
        """The steps from the clusters of which these rows are all members."""
        rows, clusters, first, _ = _by_cluster(rows, self.labels[rows])
        if len(rows):
            self.steps[clusters] = np.minimum.reduceat(self._rises[rows], first, axis=0)


def _by_cluster(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rows sorted by their labels, the labels that there are, and where each begins and how many rows it has."""
    order = np.argsort(labels, kind="stable")
    return rows[order], *np.unique(labels[order], return_index=True, return_counts=True)


def _shortest_paths(
    steps: np.ndarray, start: np.ndarray, goals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bellman-Ford: the lengths [k] of shortest paths that begin with `start` [k], and the node before each, or -1.

    Of steps that are not negative, only as far as the nearest of the `goals` [k].
    """
    lengths, before = start.copy(), np.full(len(start), -1)
    nodes = np.flatnonzero(np.isfinite(start))
    while len(nodes):  # whose lengths are new
        through = steps[nodes] + lengths[nodes, None]
        found = through.min(axis=0)
        shorter = np.flatnonzero(found < lengths)
        before[shorter] = nodes[(through[:, shorter] == found[shorter]).argmax(axis=0)]
        lengths[shorter] = found[shorter]
        nodes = shorter if goals is None else shorter[lengths[shorter] < lengths[goals].min(initial=np.inf)]
    return lengths, before


def _disjoint(ends: np.ndarray, before: np.ndarray) -> Iterator[list[int]]:
    """Paths to the first of `ends` that have no cluster in common.

    By the lengths as prices all their steps cost nothing and none costs less; a push along one leaves that so. The
    others are then still shortest paths.
    """
    used: set[int] = set()
    for end in ends.tolist():
        path = [end]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        if used.isdisjoint(path):
            used.update(path)
            yield path[::-1]


def _potentials(flow: _Flow, start: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The largest prices up to `start` + a constant by which no step pays, nor a change of sizes within the bounds.

    A bank beside the clusters takes a point from those that may grow and gives one to those that may shrink, for
    nothing. Its price is zero, unless no size may change.
    """
    k = len(start)
    steps = np.full((k + 1, k + 1), np.inf)
    steps[:k, :k] = flow.steps
    steps[:k, k] = np.where(flow.sizes < upper, 0, np.inf)
    steps[k, :k] = np.where(flow.sizes > lower, 0, np.inf)
    lengths, _ = _shortest_paths(steps, np.append(start, np.inf))
    return lengths[:k] - (lengths[k] if np.isfinite(lengths[k]) else 0)
