"""A decision: how class logits become labels and calibrated probabilities."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num
from scipy.special import log_softmax, softmax

from rgjax.decision.calibration import best_temperature, bias_corrected
from rgjax.decision.goal import Goal
from rgjax.decision.offsets import best_offsets
from rgjax.errors import UserError

FILE = "decision.json"
_TRUSTED = 1000  # examples of a class whose labels count as much as the calibrated probabilities


@dataclass(frozen=True)
class Decision:
    """Class offsets for labels; a temperature and biases for probabilities.

    Attributes:
        class_names: in the order of the logits.
        offsets: [C] float64, added to the log-probabilities before the argmax; 0 for the largest class.
        temperature: by which the logits are divided for calibrated probabilities.
        biases: [C] float64, added to the divided logits.
        rule: what the offsets maximize: "balanced accuracy", "costs" or "recall".
    """

    class_names: tuple[str, ...]
    offsets: Float[np.ndarray, " C"]
    temperature: float
    biases: Float[np.ndarray, " C"]
    rule: str

    def predict(self, logits: Num[np.ndarray, "n C"]) -> Integer[np.ndarray, " n"]:
        """argmax_c(log p_c + offset_c); a tie goes to the lower class."""
        return np.argmax(log_softmax(np.asarray(logits, np.float64), axis=1) + self.offsets, axis=1)

    def calibrated(self, logits: Num[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        """logits / temperature + biases."""
        return np.asarray(logits, np.float64) / self.temperature + self.biases

    def probabilities(self, logits: Num[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        """Calibrated probabilities: the softmax of `calibrated`."""
        return softmax(self.calibrated(logits), axis=1)

    def as_json(self) -> dict[str, Any]:
        offsets, biases = (
            dict(zip(self.class_names, values.tolist(), strict=True)) for values in (self.offsets, self.biases)
        )
        return {"offsets": offsets, "temperature": self.temperature, "biases": biases}


def fit_decision(
    logits: Num[np.ndarray, "n C"],
    labels: Integer[np.ndarray, " n"],
    class_names: Sequence[str],
    *,
    costs: Float[np.ndarray, "C C"] | None = None,
    min_recall: Mapping[str, float] | None = None,
) -> Decision:
    """Fit a decision on the examples of a validation split.

    The recall that the labels show is a step function of the offsets, and its maximum is chance: on 1,600 examples of
    seven classes it costs up to 2 points of BA on others. So the recall of a class is a composite, as in small-area
    estimation (Fay & Herriot 1979): n / (n + 1000) of the observed one, and the rest expected from calibrated
    probabilities. Of few examples the offsets are those of the likelihood, of many those that maximize the gain.

    Args:
        logits: of the classes.
        labels: the true classes.
        class_names: in the order of the logits.
        costs: of each true class (rows) that is predicted as each class (columns); their mean is minimized.
        min_recall: class -> recall that it must reach on these examples; BA is maximized among such offsets.
    """
    goal = Goal(costs, min_recall or {})
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=1, keepdims=True)
    counts = np.bincount(labels, minlength=len(class_names))
    present = counts > 0
    temperature, biases, probabilities = bias_corrected(z, labels, best_temperature(z, labels))

    # Each class's gain is a composite of what its labels say and of what the probabilities expect.
    trust = counts / (counts + _TRUSTED)
    expected = probabilities * (counts / probabilities.sum(axis=0))
    shares = trust * np.eye(len(counts))[labels] + (1 - trust) * expected
    gains = -costs / len(labels) if costs is not None else np.diag(present / np.maximum(counts, 1) / present.sum())

    # The optimum for BA where the probabilities are right; a class without examples counts as if it had one.
    likely = temperature * (biases - np.log(np.maximum(counts + 0.5, 1)))
    likely -= likely[counts.argmax()]
    starts = [likely] if goal.rule == "balanced accuracy" else [likely, np.zeros(len(counts))]
    goals = {list(class_names).index(name): recall for name, recall in goal.min_recall.items()}
    offsets = best_offsets(z, labels, shares @ gains, goals, starts)
    return Decision(tuple(class_names), offsets, temperature, biases, goal.rule)


def read_decision(workdir: Path, aggregate: str) -> Decision:
    """The decision of a finished run for an aggregation.

    Raises UserError if the run has none, as runs of versions before 0.4.0.
    """
    try:
        recorded = json.loads((workdir / FILE).read_text("utf-8"))
        chosen = recorded["by_aggregation"][aggregate]
        names = tuple(chosen["offsets"])
        offsets, biases = (np.array([chosen[key][name] for name in names], float) for key in ("offsets", "biases"))
        return Decision(names, offsets, float(chosen["temperature"]), biases, recorded["rule"])
    except FileNotFoundError as error:
        raise UserError(
            f"--workdir={workdir}: holds no {FILE}, as the run is of an older version; train it again in another "
            "--workdir"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir / FILE}: damaged; train the run again in another --workdir") from error
