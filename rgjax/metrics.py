"""Balanced accuracy, average precision and related metrics, exact and in float64.

A class without examples has no average precision (AP): NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num


def log_odds(logits: Num[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """z_c - logsumexp of the other logits.

    It ranks like the probability of c, and never saturates into ties.
    """
    z = np.asarray(logits, np.float64)
    odds = np.empty_like(z)
    for c in range(z.shape[1]):
        rest = np.delete(z, c, axis=1)
        top = rest.max(axis=1, keepdims=True)
        odds[:, c] = z[:, c] - top[:, 0] - np.log(np.exp(rest - top).sum(axis=1))
    return odds


def average_precision(scores: Num[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> Float[np.ndarray, " C"]:
    """One-vs-rest average precision (AP), as scikit-learn defines it.

    AP = sum over distinct thresholds of (R_k - R_{k-1}) P_k, with recall R and precision P. Each positive adds 1 /
    positives to the recall, so that AP is the mean of the precision at their scores.
    """
    ap = np.full(scores.shape[1], np.nan)
    for c, column in enumerate(np.array(scores.T, np.float64, order="C")):
        positive, ranked = np.sort(column[labels == c]), np.sort(column)
        if len(positive):
            hits = len(positive) - np.searchsorted(positive, positive)
            ap[c] = (hits / (len(ranked) - np.searchsorted(ranked, positive))).mean()
    return ap


def _weighted_ap(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AP [R] of one class's scores [N] under each row of sample weights [R, N]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # ties share a threshold
    weights = weights[:, order]
    hits = np.cumsum(weights * positive[order], axis=1)[:, ends]
    drawn = np.cumsum(weights, axis=1)[:, ends]
    gains = np.diff(hits, axis=1, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(drawn > 0, hits / drawn, 0.0)
        return (gains * precision).sum(axis=1) / hits[:, -1]


def auroc(scores: Num[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> Float[np.ndarray, " C"]:
    """One-vs-rest area under the ROC curve (Mann-Whitney; ties count half)."""
    areas = np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        _, inverse, counts = np.unique(scores[:, c], return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        positive = labels == c
        n = int(positive.sum())
        if 0 < n < len(labels):
            areas[c] = (ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n))
    return areas


def confusion_matrix(
    labels: Integer[np.ndarray, " N"], predictions: Integer[np.ndarray, " N"], num_classes: int
) -> Integer[np.ndarray, "C C"]:
    """Counts with the true classes as rows and the predicted ones as columns."""
    flat = np.asarray(labels, np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(
    labels: Integer[np.ndarray, " N"], predictions: Integer[np.ndarray, " N"], num_classes: int
) -> float:
    """Mean recall over the classes that have examples."""
    confusion = confusion_matrix(labels, predictions, num_classes)
    present = confusion.sum(axis=1) > 0
    return float((np.diag(confusion)[present] / confusion.sum(axis=1)[present]).mean())


def bootstrap_intervals(
    logits: Num[np.ndarray, "N C"],
    labels: Integer[np.ndarray, " N"],
    *,
    scores: Float[np.ndarray, "N C"] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Percentile intervals of balanced accuracy and AP, by a stratified bootstrap.

    Args:
        logits: of the classes.
        labels: the true classes.
        scores: `log_odds(logits)`, where the caller has computed them already.
        resamples: bootstrap samples, in multiples of 100 if more than that.
        level: coverage of the intervals.
        seed: of the resampling.

    Returns:
        {"ba": [2], "ap": [C, 2], "macro_ap": [2]}.
    """
    rng = np.random.default_rng(seed)
    scores = log_odds(logits) if scores is None else scores
    correct, classes = np.argmax(logits, axis=1) == labels, np.unique(labels)
    aps, bas = [], []
    for _ in range(0, resamples, 100):
        weights = np.zeros((min(100, resamples), len(labels)))
        for c in classes:
            members = np.flatnonzero(labels == c)
            uniform = np.full(len(members), 1 / len(members))
            weights[:, members] = rng.multinomial(len(members), uniform, len(weights))
        recalls = [(weights[:, labels == c] @ correct[labels == c]) / (labels == c).sum() for c in classes]
        bas.append(np.mean(recalls, axis=0))
        aps.append(np.stack([_weighted_ap(scores[:, c], labels == c, weights) for c in range(scores.shape[1])], axis=1))
    ap, ends = np.concatenate(aps), [(1 - level) / 2, (1 + level) / 2]
    return {
        "ba": np.quantile(np.concatenate(bas), ends),
        "ap": np.quantile(ap, ends, axis=0).T,
        "macro_ap": np.quantile(ap[:, classes].mean(axis=1), ends),
    }


def evaluate(
    logits: Num[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"], class_names: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """All metrics of one split, ready for JSON; undefined ones are None.

    Args:
        logits: of the classes.
        labels: the true classes.
        class_names: the keys of the metrics by class.
        seed: of the bootstrap.

    Raises:
        ValueError: for no examples, and for logits that are not finite.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError("metrics need at least one example and finite logits")
    scores, predictions = log_odds(logits), np.argmax(logits, axis=1)
    counts = np.bincount(labels, minlength=len(class_names))
    ap, intervals = average_precision(scores, labels), bootstrap_intervals(logits, labels, scores=scores, seed=seed)

    def named(values):
        return {name: _plain(value) for name, value in zip(class_names, values, strict=True)}

    return {
        "ba": balanced_accuracy(labels, predictions, len(class_names)),
        "ba_ci": _plain(intervals["ba"]),
        "ap": named(ap),
        "ap_ci": named(intervals["ap"]),
        "macro_ap": float(np.nanmean(ap)),
        "macro_ap_ci": _plain(intervals["macro_ap"]),
        "accuracy": float((predictions == labels).mean()),
        "macro_auroc": _plain(np.nanmean(auroc(scores, labels))) if len(np.unique(labels)) > 1 else None,
        "n": len(labels),
        "counts": named(counts),
        "chance_ap": named(counts / len(labels)),
        "confusion": confusion_matrix(labels, predictions, len(class_names)).tolist(),
    }


def _plain(value):
    if np.ndim(value):
        return [_plain(v) for v in value]
    return None if np.isnan(value) else value.item()
