"""What the figures keep of the predictions of a run on its test set."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from rgjax.decision import FILE, Decision, read_decision
from rgjax.errors import UserError
from rgjax.metrics import confusion_matrix, log_odds
from rgjax.report.reading import read_test_logits
from rgjax.report.runs import Entry, RunRecord
from rgjax.report.study import Study

_log = logging.getLogger(__name__)

_MAX_CLASSES = 24  # with curves; the rarest ones
_POINTS = 100  # of a curve


@dataclass(frozen=True)
class Outcome:
    """Curves, chosen points and confidences of one run.

    Attributes:
        curves: class -> recall, precision and false positive rate [3, points], by falling threshold.
        argmax, tuned: class -> the same three numbers [3] of the predicted labels; tuned is empty without a decision.
        shares: class -> its share of the examples.
        trained: the probability of the argmax [n], and whether it is the true class [n].
        calibrated: the same by the decision's probabilities; None without one.
        temperature: of the decision.
    """

    curves: dict[str, np.ndarray]
    argmax: dict[str, np.ndarray]
    tuned: dict[str, np.ndarray]
    shares: dict[str, float]
    trained: tuple[np.ndarray, np.ndarray]
    calibrated: tuple[np.ndarray, np.ndarray] | None
    temperature: float | None


def read_outcomes(study: Study) -> dict[Entry, list[Outcome]]:
    """The outcomes of the reported runs that have predictions, by entry."""
    names, shown = list(study.counts), set(classes_with_curves(study))
    outcomes = {
        entry: [outcome for run in study.finished(entry) if (outcome := _read(run, names, shown))]
        for entry in study.entries
    }
    return {entry: of_runs for entry, of_runs in outcomes.items() if of_runs}


def classes_with_curves(study: Study) -> list[str]:
    """All classes, or the rarest `_MAX_CLASSES`, in the order of the study."""
    rarest = sorted(study.counts, key=lambda name: study.counts[name])[:_MAX_CLASSES]
    return [name for name in study.counts if name in rarest]


def _read(run: RunRecord, names: Sequence[str], shown: set[str]) -> Outcome | None:
    predictions = read_test_logits(run)
    if predictions is None or predictions[0].shape[1] != len(names):
        return None
    logits, labels = predictions
    decision = _read_decision(run, names)
    scores, top = log_odds(logits), np.argmax(logits, axis=1)
    present = [c for c, name in enumerate(names) if name in shown and 0 < (labels == c).sum() < len(labels)]

    def points(predicted: np.ndarray) -> dict[str, np.ndarray]:
        counts = confusion_matrix(labels, predicted, len(names))
        return {names[c]: _rates(counts[c, c], counts[c].sum(), counts[:, c].sum(), len(labels)) for c in present}

    def confidences(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels

    return Outcome(
        curves={names[c]: threshold_curve(scores[:, c], labels == c) for c in present},
        argmax=points(top),
        tuned=points(decision.predict(logits)) if decision else {},
        shares={names[c]: float((labels == c).mean()) for c in present},
        trained=confidences(softmax(logits, axis=1)),
        calibrated=confidences(decision.probabilities(logits)) if decision else None,
        temperature=decision.temperature if decision else None,
    )


def _read_decision(run: RunRecord, names: Sequence[str]) -> Decision | None:
    """The decision for the run's aggregation; None if it is missing or damaged."""
    if not (run.folder / FILE).exists():  # as older runs
        return None
    try:
        decision = read_decision(run.folder, run.row["aggregate"])
    except (UserError, OSError) as error:
        _log.warning(str(error))
        return None
    numbers = [*decision.offsets, *decision.biases, decision.temperature]
    usable = np.isfinite(numbers).all() and decision.temperature > 0
    if not usable or list(decision.class_names) != list(names):
        _log.warning(f"{run.folder / FILE}: not numbers for each class and a temperature; skipped")
        return None
    return decision


def threshold_curve(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Recall, precision and false positive rate [3, points] at scores of positives.

    The recalls are about evenly spaced up to 1, so that the mean over runs is one at equal recall (Fawcett 2006).
    """
    positives, negatives = np.sort(scores[positive])[::-1], np.sort(scores[~positive])
    kept = positives[np.ceil(np.arange(1, _POINTS + 1) * len(positives) / _POINTS).astype(int) - 1]
    hits = len(positives) - np.searchsorted(positives[::-1], kept)  # ties share a threshold
    retrieved = hits + len(negatives) - np.searchsorted(negatives, kept)
    return _rates(hits, len(positives), retrieved, len(scores))


def _rates(hits, positives, retrieved, examples) -> np.ndarray:
    """Recall, precision (NaN where nothing is retrieved) and false positive rate."""
    with np.errstate(invalid="ignore"):
        return np.array([hits / positives, np.divide(hits, retrieved), (retrieved - hits) / (examples - positives)])
