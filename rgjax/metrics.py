"""Metrics of rankings, labels and probabilities, exact and in float64.

A class without examples has no average precision (AP): NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from scipy.special import log_softmax, ndtri, stdtrit

_MANY, _TINY = 1e6, 1e-300  # degrees of freedom of a known variance; no division by zero
ECE_BINS = 15


def log_odds(logits: Num[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """z_c - logsumexp of the other logits.

    It ranks like the probability of c, and never saturates into ties.
    """
    z = np.array(logits, np.float64)
    winners = z.argmax(axis=1)[:, None]
    top = np.take_along_axis(z, winners, axis=1)
    rest = z.copy()
    np.put_along_axis(rest, winners, -np.inf, axis=1)

    # To all but the winner, the winner's share 1 is added: no cancellation when c's own share is taken out of the sum.
    shares = np.exp(rest - top)
    odds = z - top - np.log1p(shares.sum(axis=1, keepdims=True) - shares)
    second = rest.max(axis=1, keepdims=True)
    best = top - second - np.log(np.exp(rest - second).sum(axis=1, keepdims=True))
    np.put_along_axis(odds, winners, best, axis=1)
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


def confidence_intervals(
    logits: Num[np.ndarray, "N C"],
    labels: Integer[np.ndarray, " N"],
    *,
    scores: Float[np.ndarray, "N C"] | None = None,
    level: float = 0.95,
) -> dict[str, np.ndarray]:
    """Score intervals of balanced accuracy, AP and macro AP, without resampling.

    They are for the expected scores on more examples of the same classes and prevalences, and contain the estimates.
    tests/README.md has their coverage.

    Args:
        logits: of the classes.
        labels: the true classes.
        scores: `log_odds(logits)`, where the caller has computed them already.
        level: coverage of the intervals.

    Returns:
        {"ba": [2], "ap": [C, 2], "macro_ap": [2]}; NaN where there is no AP.
    """
    scores = log_odds(logits) if scores is None else scores
    counts = np.bincount(labels, minlength=scores.shape[1])
    classes = np.flatnonzero(counts)
    sizes = counts[classes]
    correct = np.bincount(labels[np.argmax(logits, axis=1) == labels], minlength=len(counts))[classes]
    ap = np.full((len(counts), 2), np.nan)
    ap[classes], macro_ap = ap_intervals(scores[:, classes], labels[:, None] == classes, level=level)
    return {"ba": ba_interval(correct, sizes, level=level), "ap": ap, "macro_ap": macro_ap}


def ba_interval(
    correct: Integer[np.ndarray, "*R C"], sizes: Integer[np.ndarray, " C"], *, level: float = 0.95
) -> Float[np.ndarray, "*R 2"]:
    """Interval of the mean recall of classes with `correct` of `sizes` examples.

    r (1 - r) of a recall r in n examples is 1 - 1/n times its expectation. The rest is taken from the mean recall,
    which matters where many classes have few examples each.
    """
    spread = (1 - 1 / len(sizes)) / sizes**2
    return _score_interval(correct / sizes, sizes, ndtri((1 + level) / 2), spread)


def ap_intervals(
    scores: Num[np.ndarray, "N C"], positive: Bool[np.ndarray, "N C"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, "C 2"], Float[np.ndarray, " 2"]]:
    """Intervals of each column's AP and of their mean; each has a positive.

    A resampled positive that occurs twice raises its own precision, so that a bootstrap of AP is biased upwards. Here
    an AP gets Wilson's interval of a proportion: the AP without its bias, in as many trials as give its variance; bias
    and variance are the jackknife's. The mean gets the interval of a mean of proportions.
    """
    sizes, upper = positive.sum(axis=0), (1 + level) / 2
    if (sizes == len(scores)).all():  # without negatives, AP is 1 for any scores
        return np.ones((len(sizes), 2)), np.ones(2)
    columns = zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(positive.T), strict=True)
    ap, bias, deviations = map(np.array, zip(*(_jackknife(*column) for column in columns), strict=True))
    bias = np.maximum(bias, 0.0)
    centers = np.maximum(ap - bias, np.minimum(ap, sizes / len(scores)))
    variances, df = _variances(ap, centers, sizes, deviations, positive.T)

    # The bias of one AP is known about as well as it is large.
    trials = _trials(centers, variances + bias**2, sizes)
    low, high = _score_interval(centers[:, None], trials[:, None], stdtrit(df, upper)[:, None]).T
    intervals = np.stack([np.minimum(low, ap), np.maximum(high, ap)], axis=1)

    # Over columns, the errors of the bias cancel except for about a third of it, which the jackknife leaves. Columns
    # share examples, so that their APs are correlated.
    squares, total = (deviations**2).sum(), variances.sum()
    excess = (deviations.sum(axis=0) ** 2).sum() / squares if squares else 1.0
    excess += (bias.sum() / 3) ** 2 / max(total, _TINY)
    df = min(total**2 / (variances**2 / df).sum(), _MANY) if total else _MANY
    low, high = _score_interval(centers, _trials(centers, excess * variances, sizes), stdtrit(df, upper))
    return intervals, np.array([min(low, ap.mean()), max(high, ap.mean())])


def _jackknife(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float, np.ndarray]:
    """AP of scores [N], its bias, and the deviation [N] that each example causes.

    The AP without each example in turn (Efron & Stein 1981), in closed form, for positives and negatives apart and at
    their given prevalence. The squares of the deviations add up to the variance of the AP.
    """
    order = np.argsort(scores)  # searching in order is ten times faster
    scores, positive = scores[order], positive[order]
    ranked = scores[positive]
    n, m = len(ranked), len(scores) - len(ranked)
    below = np.searchsorted(ranked, scores, side="right")  # positives whose precision an example enters
    hits = n - np.searchsorted(ranked, ranked)
    alarms = m - np.cumsum(np.bincount(below[~positive], minlength=n + 1))[:n]
    ap, bias, deviations = _precision(hits, alarms).mean(), 0.0, np.zeros(len(scores))

    def without(kept: np.ndarray, removed: np.ndarray) -> np.ndarray:
        """Sums of precisions without an example that enters the i lowest ones [n + 1]."""
        return kept.sum() + np.concatenate([[0.0], np.cumsum(removed - kept)])

    groups = []
    if n > 1:
        grow = n / (n - 1)
        removed = _precision((hits - 1) * grow, alarms)
        sums = without(_precision(hits * grow, alarms), removed)[below[positive]]
        groups.append((positive, (sums - removed[np.searchsorted(ranked, scores[positive])]) / (n - 1)))
    if m > 1:
        grow = m / (m - 1)
        removed = _precision(hits, np.maximum(alarms - 1, 0) * grow)
        groups.append((~positive, without(_precision(hits, alarms * grow), removed)[below[~positive]] / n))
    for members, values in groups:
        bias += (len(values) - 1) * (values.mean() - ap)
        deviations[order[members]] = np.sqrt(1 - 1 / len(values)) * (values - values.mean())
    return ap, bias, deviations


def _precision(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    return hits / np.maximum(hits + alarms, 1e-9)


def _variances(
    ap: np.ndarray, centers: np.ndarray, sizes: np.ndarray, deviations: np.ndarray, positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Variances of APs [C], and the degrees of freedom of these variances.

    Few examples tell little about the variance of an AP: its degrees of freedom follow from the fourth moments of the
    deviations (Satterthwaite 1946). So it is averaged with a prior, as in moderated t-statistics (Smyth 2004): the
    variance of a proportion of all positives (Boyd, Eng & Page 2013), with 3 degrees of freedom. It includes a quarter
    of a positive at the top of the ranking, which a class may have where the examples have none.

    Args:
        ap: with its bias.
        centers: without it.
        sizes: number of positives.
        deviations: of each example [C, N], from `_jackknife`.
        positive: whether each example is a positive [C, N].
    """
    squares = deviations**2
    measured, doubt = squares.sum(axis=1), np.zeros(len(ap))
    for members in (positive, ~positive):
        total = (squares * members).sum(axis=1)
        doubt += ((squares * members) ** 2).sum(axis=1) - total**2 / np.maximum(members.sum(axis=1), 1)
    known = (sizes > 1) & (measured > 1e-14)
    df = np.where(known, np.minimum(2 * measured**2 / np.maximum(doubt, _TINY), _MANY), 0.0)
    weight = df / (df + 3)
    measured = weight * (measured + 0.25 * (1 - ap) ** 2 / sizes**2)
    variances = measured + (1 - weight) * centers * (1 - centers) / sizes
    growth = variances / np.where(known, measured, variances + _TINY)
    return variances, np.where(known, np.minimum(df * growth**2, _MANY), _MANY)


def _trials(shares: np.ndarray, variances: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """In how many trials a proportion has this variance; `sizes` where it is 0."""
    return np.where(variances > 0, shares * (1 - shares) / np.maximum(variances, _TINY), sizes)


def _score_interval(shares: np.ndarray, sizes: np.ndarray, quantile: Any, spread: Any = 0.0) -> np.ndarray:
    """Score interval [..., 2] of the mean of proportions [..., C], see `_score_bound`."""
    low = _score_bound(shares, sizes, quantile, spread)
    return np.stack([low, 1 - _score_bound(1 - shares, sizes, quantile, spread)], axis=-1)


def _score_bound(shares: np.ndarray, sizes: np.ndarray, quantile: Any, spread: Any) -> np.ndarray:
    """Lower score bound of the mean of independent proportions, by bisection.

    The bound is the smallest mean t that is not rejected: (mean of shares - t)^2 <= quantile^2 V(t). The variance
    V(t) is taken at the most likely proportions p whose mean is t (Miettinen & Nurminen 1985; Martín Andrés et al.
    2011 for several proportions). For one proportion this is Wilson's bound. With the Lagrange multiplier u,
    u p^2 - (u + n) p + n share = 0.

    Args:
        shares: observed proportions [..., C].
        sizes: numbers of trials n [..., C].
        quantile: of the normal or Student's distribution [..., 1].
        spread: times t (1 - t), this is added to the variance p (1 - p) / n of each proportion [..., C].
    """
    observed = shares.mean(axis=-1, keepdims=True)
    low, high, mean = np.full(observed.shape, -30.0), np.full(observed.shape, 35.0), observed  # of log u
    for _ in range(45):
        middle = (low + high) / 2
        u = np.exp(middle)
        root = np.sqrt(np.maximum((u + sizes) ** 2 - 4 * u * sizes * shares, 0.0))
        p = np.minimum(2 * sizes * shares / (u + sizes + root), 1.0)
        mean = p.mean(axis=-1, keepdims=True)
        variance = (p * (1 - p) / sizes + spread * mean * (1 - mean)).mean(axis=-1, keepdims=True) / shares.shape[-1]
        accepted = observed - mean <= quantile * np.sqrt(variance) + 1e-12
        low, high = np.where(accepted, middle, low), np.where(accepted, high, middle)
    return np.where(observed > 0, mean, 0.0)[..., 0]


def recall_intervals(
    correct: Integer[np.ndarray, " C"], sizes: Integer[np.ndarray, " C"], *, level: float = 0.95
) -> Float[np.ndarray, "C 2"]:
    """Wilson's interval of the recall of each class; NaN for one without examples."""
    intervals = np.full((len(sizes), 2), np.nan)
    present = sizes > 0
    shares = (correct[present] / sizes[present])[:, None]
    intervals[present] = _score_interval(shares, sizes[present, None], ndtri((1 + level) / 2))
    return intervals


def confidence_bins(confidences: Float[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """The bin, 0 to `ECE_BINS` - 1, of each confidence; the bins have equal mass.

    Equal confidences share a bin; rounding makes those equal that differ by floating-point errors alone.
    """
    confidences = np.round(confidences, 12)
    _, inverse, counts = np.unique(confidences, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts)[inverse] * ECE_BINS // len(confidences)


def calibration_error(confidences: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"]) -> float:
    """Expected calibration error (ECE) with bins of equal mass.

    The mean over bins of |share of correct ones - mean confidence|, weighted by the number of examples (Naeini et al.
    2015; equal mass: Nixon et al. 2019).
    """
    confidences = np.round(confidences, 12)
    bins = confidence_bins(confidences)
    return float(np.abs(np.bincount(bins, correct - confidences)).sum() / len(bins))


def calibration_scores(logits: Num[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> dict[str, float]:
    """ECE, Brier score and mean negative log-likelihood of the softmax of logits.

    The Brier score is the squared error summed over the classes, which is halved for two of them: scikit-learn's.
    """
    log_probs, rows = log_softmax(np.asarray(logits, np.float64), axis=1), np.arange(len(labels))
    probabilities = np.exp(log_probs)
    errors = probabilities.copy()
    errors[rows, labels] -= 1
    brier = (errors**2).sum(axis=1).mean() / (2 if errors.shape[1] == 2 else 1)
    correct = probabilities.argmax(axis=1) == labels
    return {
        "ece": calibration_error(probabilities.max(axis=1), correct),
        "brier": float(brier),
        "nll": float(-log_probs[rows, labels].mean()),
    }


def label_scores(
    labels: Integer[np.ndarray, " N"], predictions: Integer[np.ndarray, " N"], class_names: Sequence[str]
) -> dict[str, Any]:
    """The metrics of predicted labels, ready for JSON; undefined ones are None.

    That are the precision of a class never predicted, the recall of one without examples, and the F1 of a class of
    which both holds. The macro F1 is the mean of the others. The Matthews correlation is 0 where only one class is
    predicted, or only one has examples.
    """
    confusion = confusion_matrix(labels, predictions, len(class_names))
    correct, sizes, guessed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = correct / guessed, correct / sizes, 2 * correct / (sizes + guessed)
    present, n = sizes > 0, float(len(labels))
    spread = np.sqrt(n**2 - (sizes.astype(float) ** 2).sum()) * np.sqrt(n**2 - (guessed.astype(float) ** 2).sum())
    return {
        "ba": float(recall[present].mean()),
        "ba_ci": _plain(ba_interval(correct[present], sizes[present])),
        "accuracy": float(correct.sum() / n),
        "precision": _named(class_names, precision),
        "recall": _named(class_names, recall),
        "recall_ci": _named(class_names, recall_intervals(correct, sizes)),
        "f1": _named(class_names, f1),
        "macro_f1": float(np.nanmean(f1)),
        "mcc": float((correct.sum() * n - sizes.astype(float) @ guessed) / spread) if spread else 0.0,
        "n": len(labels),
        "confusion": confusion.tolist(),
    }


def evaluate(
    logits: Num[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"], class_names: Sequence[str]
) -> dict[str, Any]:
    """All metrics of one split at the argmax, ready for JSON; undefined ones are None.

    Args:
        logits: of the classes.
        labels: the true classes.
        class_names: the keys of the metrics by class.

    Raises:
        ValueError: for no examples, and for logits that are not finite.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError("metrics need at least one example and finite logits")
    scores = log_odds(logits)
    counts = np.bincount(labels, minlength=len(class_names))
    ap, intervals = average_precision(scores, labels), confidence_intervals(logits, labels, scores=scores)
    return {
        **label_scores(labels, np.argmax(logits, axis=1), class_names),
        **calibration_scores(logits, labels),
        "ap": _named(class_names, ap),
        "ap_ci": _named(class_names, intervals["ap"]),
        "macro_ap": float(np.nanmean(ap)),
        "macro_ap_ci": _plain(intervals["macro_ap"]),
        "macro_auroc": _plain(np.nanmean(auroc(scores, labels))) if len(np.unique(labels)) > 1 else None,
        "counts": _named(class_names, counts),
        "chance_ap": _named(class_names, counts / len(labels)),
    }


def _named(class_names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(class_names, values, strict=True)}


def _plain(value):
    if np.ndim(value):
        return [_plain(v) for v in value]
    return None if np.isnan(value) else value.item()
