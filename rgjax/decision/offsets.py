"""Class offsets that maximize a gain, by coordinate ascent over all cuts."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Integer

_SHORTFALL = 1e6  # gain that a recall of 1 below its goal costs; no gain of a sane user reaches it
_MOST_ROUNDS = 20


def best_offsets(
    log_probs: Float[np.ndarray, "n C"],
    labels: Integer[np.ndarray, " n"],
    gains: Float[np.ndarray, "C C"],
    goals: Mapping[int, float],
) -> Float[np.ndarray, " C"]:
    """Offsets whose predictions have the highest total gain.

    With two classes they are a global maximum. With more, no change of one offset improves them; the ascent starts both
    from the argmax and from the offsets that are optimal for calibrated probabilities, the negative log-prevalences.

    Args:
        log_probs: of the classes.
        labels: the true classes.
        gains: of one example, by its true class (rows) and its predicted one (columns).
        goals: class -> recall that it must reach; no gain makes up for less.

    Returns:
        The offsets; 0 for the largest class. A class without examples keeps 0.
    """
    counts = np.bincount(labels, minlength=log_probs.shape[1])
    present = np.flatnonzero(counts)
    reference = int(np.argmax(counts))
    starts = [np.zeros(len(counts)), np.log(counts[reference] / np.maximum(counts, 1)) * (counts > 0)]
    climbed = []
    for offsets in starts:
        value = -np.inf
        for _ in range(_MOST_ROUNDS):
            before = value
            for c in present[present != reference]:
                offsets[c], value = _best_offset(log_probs, offsets, c, labels, gains, goals)
            if not value > before + 1e-12:
                break
        climbed.append((value, offsets))
    return max(climbed, key=lambda pair: pair[0])[1]


def _best_offset(log_probs, offsets, c, labels, gains, goals) -> tuple[float, float]:
    """The best offset of class c with the others fixed, and the value of the gain.

    An example is predicted as c if the offset exceeds its threshold, else as its rival, the best of the other classes.
    So the gain is a step function of the offset, with its steps at the thresholds.
    """
    scores = log_probs + offsets
    scores[:, c] = -np.inf
    rivals = scores.argmax(axis=1)
    thresholds = scores[np.arange(len(scores)), rivals] - log_probs[:, c]
    order = np.argsort(thresholds)
    thresholds, truth, rivals = thresholds[order], labels[order], rivals[order]
    value = _steps(gains[truth, rivals], gains[truth, c])
    for goal, recall in goals.items():
        hits = truth == goal
        reached = _steps(hits & (rivals == goal), hits & (c == goal)) / max(hits.sum(), 1)
        value -= _SHORTFALL * np.maximum(recall - reached - 1e-12, 0.0)
    cuts = np.concatenate([[thresholds[0] - 1], (thresholds[1:] + thresholds[:-1]) / 2, [thresholds[-1] + 1]])
    value[1:-1][thresholds[1:] == thresholds[:-1]] = -np.inf  # no offset lies between equal thresholds
    best = np.flatnonzero(value >= value.max() - 1e-12)
    nearest = best[np.argmin(np.abs(cuts[best] - offsets[c]))]
    return float(cuts[nearest]), float(value[nearest])


def _steps(without: np.ndarray, with_c: np.ndarray) -> np.ndarray:
    """Totals [n + 1] where the first 0..n examples are predicted as c."""
    return without.sum() + np.concatenate([[0.0], np.cumsum(with_c.astype(float) - without)])
