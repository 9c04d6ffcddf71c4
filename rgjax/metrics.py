"""Balanced accuracy, class-wise average precision and their company, exact and in float64 (NumPy).

Shapes: logits and scores [N, C], labels [N] in 0..C-1. A class that is absent from the labels has no AP: NaN.
"""

import numpy as np


def log_odds(logits: np.ndarray) -> np.ndarray:
    """z_c - logsumexp of the other logits: ranks as the class's probability does, and never saturates into ties."""
    z = np.asarray(logits, np.float64)
    odds = np.empty_like(z)
    for c in range(z.shape[1]):
        others = np.delete(z, c, axis=1)
        top = others.max(axis=1, keepdims=True)
        odds[:, c] = z[:, c] - top[:, 0] - np.log(np.exp(others - top).sum(axis=1))
    return odds


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-vs-rest AP [C] = sum over distinct thresholds of (R_k - R_{k-1}) P_k, as scikit-learn defines it."""
    aps = np.full(scores.shape[1], np.nan)
    for c, column in enumerate(np.array(scores.T, np.float64, order="C")):
        own = np.sort(column[labels == c])
        if len(own):
            hits = len(own) - np.searchsorted(own, own)
            aps[c] = (hits / _at_least(column, own)).mean()  # each positive adds 1 / len(own) to the recall
    return aps


def _at_least(column, own, buckets: int = 4096) -> np.ndarray:
    """How many of the scores `column` [N] are at least as high as each of `own` [P], a sorted part of them.

    Only the scores that share a bucket with one of `own` are sorted (the positives are few, and sorting all takes
    longer than all the rest). Rounding never changes the order of two buckets, so that the counts are exact.
    """
    low = own[0]
    column = column.compress(column >= low)  # the rest never counts
    span = float(column.max()) - float(low)
    step = (buckets - 1) / span if 1e-30 < span < np.inf else 0.0

    def bucket(values):
        return ((values - low) * step).astype(np.intp) if step else np.zeros(len(values), np.intp)

    all_buckets, own_buckets = bucket(column), bucket(own)
    shared = np.zeros(buckets, bool)
    shared[own_buckets] = True
    near = np.sort(column.compress(shared.take(all_buckets)))
    others = np.bincount(all_buckets, minlength=buckets)
    others[own_buckets] = 0
    below = np.cumsum(others)
    return len(near) - np.searchsorted(near, own) + below[-1] - below[own_buckets]


def _weighted_ap(scores, positive, weights) -> np.ndarray:
    """AP [R] of one class under each of the sample weights [R, N]; the scores are sorted once."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # ties share a threshold
    weights = weights[:, order]
    hits = np.cumsum(weights * positive[order], axis=1)[:, ends]
    drawn = np.cumsum(weights, axis=1)[:, ends]
    gains = np.diff(hits, axis=1, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(drawn > 0, hits / drawn, 0.0)
        return (gains * precision).sum(axis=1) / hits[:, -1]


def auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-vs-rest area under the ROC curve [C]: the Mann-Whitney statistic, ties counted half."""
    areas = np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        _, inverse, counts = np.unique(scores[:, c], return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        positive = labels == c
        n = int(positive.sum())
        if 0 < n < len(labels):
            areas[c] = (ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n))
    return areas


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [C, C]: rows are the true classes, columns the predicted ones."""
    flat = np.asarray(labels, np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> float:
    """Mean recall over the classes that are present."""
    confusion = confusion_matrix(labels, predictions, num_classes)
    present = confusion.sum(axis=1) > 0
    return float((np.diag(confusion)[present] / confusion.sum(axis=1)[present]).mean())


def bootstrap_intervals(logits, labels, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> dict:
    """Percentile intervals under resampling within each class: {"ba": [2], "ap": [C, 2], "macro_ap": [2]}."""
    rng = np.random.default_rng(seed)
    scores, correct = log_odds(logits), np.argmax(logits, axis=1) == labels
    classes = np.unique(labels)
    aps, bas = [], []
    for _ in range(0, resamples, 100):
        weights = np.zeros((min(100, resamples), len(labels)))
        for c in classes:
            rows = np.flatnonzero(labels == c)
            weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), len(weights))
        recalls = [(weights[:, labels == c] @ correct[labels == c]) / (labels == c).sum() for c in classes]
        bas.append(np.mean(recalls, axis=0))
        aps.append(np.stack([_weighted_ap(scores[:, c], labels == c, weights) for c in range(scores.shape[1])], axis=1))
    ap, ends = np.concatenate(aps), [(1 - level) / 2, (1 + level) / 2]
    return {
        "ba": np.quantile(np.concatenate(bas), ends),
        "ap": np.quantile(ap, ends, axis=0).T,
        "macro_ap": np.quantile(ap[:, classes].mean(axis=1), ends),
    }


def evaluate(logits: np.ndarray, labels: np.ndarray, class_names, *, seed: int = 0) -> dict:
    """Every figure of one split, ready for JSON: undefined ones are None. Raises ValueError on unusable input."""
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError("metrics need at least one example and finite logits")
    scores, predictions = log_odds(logits), np.argmax(logits, axis=1)
    counts = np.bincount(labels, minlength=len(class_names))
    ap, intervals = average_precision(scores, labels), bootstrap_intervals(logits, labels, seed=seed)

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
