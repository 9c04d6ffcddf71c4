"""Exact minimum-cost assignment of points to clusters of bounded sizes.

It is a minimum-cost flow. Nearly optimal duals of the size constraints leave few points to move. These move along
shortest augmenting paths in the graph of the clusters, where the arc from a to b is the cheapest move of a point of a
to b. All arithmetic is exact: costs and duals are rounded to multiples of a power of two, of which float64 holds the
sum along any path.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MANTISSA = 52  # bits


class Assignment(NamedTuple):
    """Labels [n] int32, duals [k] float64, and the number of augmenting paths."""

    labels: np.ndarray
    duals: np.ndarray
    paths: int


def assign(
    costs: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    duals: np.ndarray | None = None,
    fixed_sizes: np.ndarray | int = 0,
) -> Assignment | None:
    """The cheapest assignment with lower <= size <= upper in every cluster.

    Args:
        costs: of each point in each cluster, [n, k].
        lower, upper: bounds [k] on the sizes.
        duals: where to start, [k]. Any give the same total; good ones save work, and decide between equal totals.
        fixed_sizes: points [k] that each cluster holds besides those that are assigned here.

    Returns:
        The labels, and duals that prove them: costs - duals is least for every point in its cluster. None if no
        assignment meets the bounds.
    """
    k = costs.shape[1]
    start = np.zeros(k) if duals is None else duals
    unit = _unit(max(np.abs(costs).max(initial=0), np.abs(start).max()), k)
    costs, start = np.round(costs / unit) * unit, np.round(start / unit) * unit
    flow = _Flow(costs, (costs - start).argmin(axis=1), np.broadcast_to(fixed_sizes, k))
    paths, potentials = 0, start
    while True:
        over, under = flow.sizes > upper, flow.sizes < lower
        feasible = not (over.any() or under.any())
        # Points that may leave and enter each cluster; first those that must.
        leave = flow.sizes - (upper if over.any() else lower)
        enter = (lower if under.any() else upper) - flow.sizes
        begin, goals = np.where(leave > 0, 0, np.inf), enter > 0
        if feasible:
            lengths, before = _shortest_paths(flow.arcs, begin)
            ends = np.flatnonzero(goals & (lengths < 0))
        else:
            # With the potentials no arc has a negative length, so that the search ends at the first goal.
            reduced = flow.arcs + potentials[:, None] - potentials
            lengths, before = _shortest_paths(reduced, begin, goals)
            nearest = lengths[goals].min(initial=np.inf)
            ends = np.flatnonzero(goals & (lengths == nearest) & np.isfinite(lengths))
            potentials = potentials + np.minimum(lengths, nearest)
        if not len(ends):
            break
        for path in _disjoint(ends[np.argsort(lengths[ends], kind="stable")], before):
            flow.push(path, int(min(leave[path[0]], enter[path[-1]])))
            paths += 1
    if not feasible:
        return None
    return Assignment(flow.labels.astype(np.int32), _potentials(flow, start, lower, upper), paths)


def _unit(largest: float, k: int) -> float:
    """A power of two: sums of 2k numbers up to `largest` are exact in its multiples."""
    return 2.0 ** (int(np.frexp(largest)[1]) + int(4 * k).bit_length() - MANTISSA) if largest else 1.0


class _Flow:
    """The cheapest assignment of its sizes: no cycle of arcs has a negative length."""

    def __init__(self, costs: np.ndarray, labels: np.ndarray, fixed_sizes: np.ndarray):
        k = len(fixed_sizes)
        self.labels, self._costs = labels, costs
        self.sizes = fixed_sizes + np.bincount(labels, minlength=k)
        self.arcs = np.full((k, k), np.inf)  # length of the arc from cluster to cluster
        self._rises = costs - costs[np.arange(len(labels)), labels, None]  # cost of moving each point
        self._refresh(np.arange(len(labels)))

    def push(self, path: list[int], most: int) -> None:
        """Move points along the path: as many as each arc has at its length, up to `most`."""
        goals = np.full(len(self.sizes), -1)
        goals[path[:-1]] = path[1:]
        indices = np.flatnonzero(goals[self.labels] >= 0)
        origins = self.labels[indices]
        cheapest = self._rises[indices, goals[origins]] == self.arcs[origins, goals[origins]]
        movers, _, first, counts = _by_cluster(indices[cheapest], origins[cheapest])
        amount = min(most, int(counts.min()))
        moved = movers[np.arange(len(movers)) - np.repeat(first, counts) < amount]
        self.labels[moved] = goals[self.labels[moved]]
        self._rises[moved] = self._costs[moved] - self._costs[moved, self.labels[moved], None]
        self.sizes[path[0]] -= amount
        self.sizes[path[-1]] += amount
        self.arcs[path] = np.inf
        changed = np.zeros(len(self.sizes), bool)
        changed[path] = True
        self._refresh(np.flatnonzero(changed[self.labels]))

    def _refresh(self, indices: np.ndarray) -> None:
        """Update the arcs from the clusters of which these are all points."""
        indices, clusters, first, _ = _by_cluster(indices, self.labels[indices])
        if len(indices):
            self.arcs[clusters] = np.minimum.reduceat(self._rises[indices], first, axis=0)


def _by_cluster(indices: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sort the points by label.

    Returns the sorted points, the distinct labels, and each label's first position and number of points.
    """
    order = np.argsort(labels, kind="stable")
    return indices[order], *np.unique(labels[order], return_index=True, return_counts=True)


def _shortest_paths(
    arcs: np.ndarray, start: np.ndarray, goals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths [k] and predecessors [k] of shortest paths, by Bellman-Ford.

    Paths begin with the lengths `start` [k], at nodes with the predecessor -1. With `goals` [k], for arcs that are not
    negative, the search ends at the nearest goal.
    """
    lengths, before = start.copy(), np.full(len(start), -1)
    nodes = np.flatnonzero(np.isfinite(start))
    while len(nodes):  # whose lengths have changed
        through = arcs[nodes] + lengths[nodes, None]
        best = through.min(axis=0)
        shorter = np.flatnonzero(best < lengths)
        before[shorter] = nodes[(through[:, shorter] == best[shorter]).argmax(axis=0)]
        lengths[shorter] = best[shorter]
        nodes = shorter if goals is None else shorter[lengths[shorter] < lengths[goals].min(initial=np.inf)]
    return lengths, before


def _disjoint(ends: np.ndarray, before: np.ndarray) -> Iterator[list[int]]:
    """Shortest paths to the first of `ends` that have no cluster in common.

    With the lengths as potentials all their arcs have length zero and none is negative. A push along one path keeps
    that so, and the remaining ones are still shortest paths.
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
    """The largest optimal duals up to `start` plus a constant.

    With optimal duals no move lowers the cost. An extra node stands for the slack of the bounds: at no cost it takes a
    point from clusters that may grow and gives one to clusters that may shrink. Its dual is zero, unless no size may
    change.
    """
    k = len(start)
    arcs = np.full((k + 1, k + 1), np.inf)
    arcs[:k, :k] = flow.arcs
    arcs[:k, k] = np.where(flow.sizes < upper, 0, np.inf)
    arcs[k, :k] = np.where(flow.sizes > lower, 0, np.inf)
    lengths, _ = _shortest_paths(arcs, np.append(start, np.inf))
    return lengths[:k] - (lengths[k] if np.isfinite(lengths[k]) else 0)
