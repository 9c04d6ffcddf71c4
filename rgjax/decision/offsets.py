"""Class offsets that maximize a gain, by coordinate ascent over all cuts."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, Integer

_SHORTFALL = 1e6  # gain that a recall of 1 below its goal costs; no sane cost reaches it
_MOST_ROUNDS = 10
_SMALL = 1e-4  # relative gain of a round that ends the ascent
_EQUAL = 1e-12  # gains that differ by less are equal


def best_offsets(
    logits: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, " n"],
    gains: Float[np.ndarray, "n C"],
    goals: Mapping[int, float],
    starts: Iterable[Float[np.ndarray, " C"]],
) -> Float[np.ndarray, " C"]:
    """Offsets whose predictions have the highest total gain.

    With two classes they are a global maximum. With more, no change of one offset improves them notably.

    Args:
        logits: of the classes.
        labels: the true classes.
        gains: of each example, predicted as each class.
        goals: class -> recall that it must reach on the labels; no gain makes up for less.
        starts: offsets that the ascent begins at; the best end wins.

    Returns:
        The offsets. Those of the largest class and of classes without examples stay as they are.
    """
    counts = np.bincount(labels, minlength=logits.shape[1])
    moved = [c for c in range(len(counts)) if counts[c] and c != counts.argmax()]
    ends = []
    for start in starts:
        climb = _Climb(logits, labels, gains, goals, start)
        value = -np.inf
        for _ in range(_MOST_ROUNDS):
            before = value
            for c in moved:
                value = climb.move(c)
            if value <= before + (_EQUAL if goals else _SMALL * abs(value)):
                break
        ends.append((value, climb.offsets))
    return max(ends, key=lambda end: end[0])[1]


class _Climb:
    """The state of an ascent: offsets, scores, and the two best classes by example."""

    def __init__(self, logits, labels, gains, goals, start):
        self.offsets, self.scores = start.copy(), logits + start
        self._logits, self._labels, self._gains, self._goals = logits, labels, gains, goals
        self._rows = np.arange(len(labels))
        self._best = np.empty((2, len(labels)), int)
        self._rank(self._rows)

    def _rank(self, rows: np.ndarray) -> None:
        self._best[:, rows] = np.argpartition(self.scores[rows], (-2, -1), axis=1)[:, :-3:-1].T

    def move(self, c: int) -> float:
        """Give class c its best offset with the other ones fixed; returns the gain.

        An example is predicted as c if the offset exceeds its threshold, else as its rival, the best of the other
        classes. So the gain is a step function of the offset, with its steps at the thresholds.
        """
        first, second = self._best
        rivals = np.where(first == c, second, first)
        thresholds = self.scores[self._rows, rivals] - self._logits[:, c]
        order = np.argsort(thresholds)
        thresholds = thresholds[order]
        value = _steps(self._gains[self._rows, rivals][order], self._gains[order, c])
        for goal, recall in self._goals.items():
            hits = self._labels == goal
            reached = _steps((hits & (rivals == goal))[order], (hits & (c == goal))[order]) / max(hits.sum(), 1)
            value -= _SHORTFALL * np.maximum(recall - reached - _EQUAL, 0.0)
        value[1:-1][thresholds[1:] == thresholds[:-1]] = -np.inf  # no offset lies between equal thresholds
        cuts = np.concatenate([[thresholds[0] - 1], (thresholds[1:] + thresholds[:-1]) / 2, [thresholds[-1] + 1]])
        best = np.flatnonzero(value >= value.max() - _EQUAL)
        nearest = best[np.argmin(np.abs(cuts[best] - self.offsets[c]))]
        self._set(c, float(cuts[nearest]))
        return float(value[nearest])

    def _set(self, c: int, offset: float) -> None:
        self.offsets[c] = offset
        self.scores[:, c] = self._logits[:, c] + offset
        _, second = self._best
        self._rank(
            np.flatnonzero((self._best == c).any(axis=0) | (self.scores[:, c] > self.scores[self._rows, second]))
        )


def _steps(without: np.ndarray, with_c: np.ndarray) -> np.ndarray:
    """Totals [n + 1] where the first 0..n examples are predicted as c."""
    return without.sum() + np.concatenate([[0.0], np.cumsum(with_c.astype(float) - without)])
