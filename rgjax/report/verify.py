"""Recomputes results with scikit-learn, and checks files against their checksums.

Aggregation to class logits, log-odds, intervals and the labels of a decision come from rgjax itself
(`rgjax.regroup.aggregation`, `rgjax.metrics`, `rgjax.decision`); all other scores are computed independently.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn import metrics as reference

from rgjax.decision import FILE as DECISION
from rgjax.decision import read_decision
from rgjax.metrics import ECE_BINS, ba_interval, confidence_intervals, log_odds, recall_intervals
from rgjax.regroup.aggregation import AGGREGATIONS, class_logits
from rgjax.report.reading import flatten, read_object
from rgjax.storage import manifest

# Float64 sums of some thousand terms agree to 1e-12 in any order. One example counted differently changes an accuracy
# by 1 / n, and two examples ranked differently an AP or AUROC by about 1 / n².
TOLERANCE = 1e-6
# Version 0.1.0 summed pseudo-classes in float32, which reorders nearly equal scores (differences up to 2e-4 were seen).
FLOAT32_VERSION, FLOAT32_TOLERANCE = "0.1.0", 1e-3
# These versions wrote bootstrap intervals, which rgjax no longer computes; the manifest holds them.
BOOTSTRAP_VERSIONS = ("0.1.0", "0.2.0")
_INTERVAL = re.compile(r"(val|test|test_by_aggregation\.\w+)\.(ba|ap|macro_ap)_ci(\.|$)")
# Sections all of whose entries must be expected ones
_RECOMPUTED = re.compile(r"(train_counts|(val|test)(_tuned)?(_by_aggregation)?)\.")
_OLD_LABEL_SCORES = ("ba", "ba_ci", "accuracy", "n", "confusion")
_MAX_SHOWN = 4  # differences printed per run


@dataclass
class Verdict:
    """The verdict on a finished run: OK, DIFFERS, or unverified (it has no manifest)."""

    folder: Path
    has_manifest: bool
    differences: list[str] = field(default_factory=list)
    version: str | None = None  # of rgjax, where the run tells it

    @property
    def state(self) -> str:
        return "DIFFERS" if self.differences else "OK" if self.has_manifest else "unverified"

    def line(self, directory: Path) -> str:
        name, more = self.folder.relative_to(directory).as_posix(), len(self.differences) - _MAX_SHOWN
        reasons = self.differences[:_MAX_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        reasons += [] if self.has_manifest else ["no manifest"]
        if self.version in BOOTSTRAP_VERSIONS:
            reasons.append(f"bootstrap intervals of version {self.version} are not recomputed")
        return f"{self.state:<11} {name}" + (f": {'; '.join(reasons)}" if reasons else "")


def verify(directory: Path) -> Iterator[Verdict]:
    """The verdict on each finished run below `directory`.

    A finished run is a folder with a result.json, or with both a config.json and a manifest.
    """
    for parent, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "checkpoints")
        if "result.json" in files or {"config.json", manifest.NAME} <= {*files}:
            yield verify_run(Path(parent))


def verify_run(folder: Path) -> Verdict:
    verdict = Verdict(folder, (folder / manifest.NAME).exists(), version=_version(folder))
    if verdict.has_manifest:
        verdict.differences += [f"{name!r}: {damage}" for name, damage in manifest.damages(folder).items()]
    try:
        verdict.differences += _differences(folder, verdict.version)
    except Exception as error:  # damaged files fail in many ways
        verdict.differences.append(f"not verified: {type(error).__name__}: {' '.join(str(error).split())}")
    return verdict


def _differences(folder: Path, version: str | None) -> list[str]:
    """Entries of result.json that are missing, unexpected, or not as recomputed."""
    result, config = (json.loads((folder / name).read_text("utf-8")) for name in ("result.json", "config.json"))
    recorded, expected = flatten(result), flatten(_expected_result(folder, config))
    sum_tolerance = FLOAT32_TOLERANCE if version == FLOAT32_VERSION else TOLERANCE
    summed = ("test_by_aggregation.sum.", *(("val.", "test.") if config["regroup"]["aggregate"] == "sum" else ()))

    differences = [f"{name}: no such class" for name in recorded if name not in expected and _is_recomputed(name)]
    for name, value in expected.items():
        tolerance = sum_tolerance if name.startswith(summed) else TOLERANCE
        if name not in recorded:
            differences.append(f"{name}: missing")
        elif version in BOOTSTRAP_VERSIONS and _INTERVAL.match(name):
            continue
        elif not _agree(recorded[name], value, tolerance):
            differences.append(f"{name}={_format(recorded[name])}: recomputed as {_format(value)}")
    return differences


def _is_recomputed(name: str) -> bool:
    return _RECOMPUTED.match(name) is not None


def _version(folder: Path) -> str | None:
    provenance = read_object(folder / "provenance.json", lambda _: None)  # the manifest check reports damage
    return provenance.get("packages", {}).get("rgjax")


def _agree(recorded: Any, expected: Any, tolerance: float) -> bool:
    """Whether strings are equal, or numbers within `tolerance`; None is NaN."""
    if isinstance(expected, str):
        return recorded == expected
    try:
        a, b = np.array(recorded, float), np.array(expected, float)
    except (TypeError, ValueError):  # not numbers
        return False
    return a.shape == b.shape and bool(((np.abs(a - b) <= tolerance) | (np.isnan(a) & np.isnan(b))).all())


def _expected_result(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of result.json, without the times and the data set's name."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        predictions = dict(file)
    with np.load(folder / "regrouping.npz", allow_pickle=False) as file:
        train_labels = file["parent"][file["pseudo_labels"]]
    names, parent = predictions["class_names"].tolist(), predictions["parent"]
    if not np.array_equal(np.unique(parent), np.arange(len(names))):
        raise ValueError("predictions.npz: parent does not name every class")

    chosen = config["regroup"]["aggregate"]
    expected = {
        "method": config["method"],
        "seed": config["seed"],
        "num_classes": len(names),
        "num_pseudo_classes": len(parent),
        "aggregate": chosen,
        "train_counts": dict(zip(names, np.bincount(train_labels, minlength=len(names)).tolist(), strict=True)),
    }
    decided = (folder / DECISION).exists()  # not so in runs of versions before 0.4.0
    for split in ("val", "test"):
        logits, labels = predictions[f"{split}_logits"], predictions[f"{split}_labels"]
        if len(predictions[f"{split}_ids"]) != len(labels):
            raise ValueError(f"predictions.npz: {split}_ids and {split}_labels differ in length")
        plain, tuned = {}, {}
        for how in AGGREGATIONS:
            by_class = class_logits(logits, parent, how)
            plain[how] = _label_scores(by_class.argmax(axis=1), labels, names)
            if decided:
                decision = read_decision(folder, how)
                plain[how] |= _calibration_scores(by_class, labels)
                tuned[how] = _label_scores(decision.predict(by_class), labels, names)
                tuned[how] |= _calibration_scores(decision.calibrated(by_class), labels)
            else:
                plain[how] = {name: plain[how][name] for name in _OLD_LABEL_SCORES}
            plain[how] |= _ranking_scores(by_class, labels, names)
        expected[split] = plain[chosen]
        if decided:
            expected |= {f"{split}_tuned": tuned[chosen], f"{split}_tuned_by_aggregation": tuned}
        if decided or split == "test":
            expected[f"{split}_by_aggregation"] = plain
    return expected


def _ranking_scores(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """The scores of class logits [n, C] that no threshold changes; undefined: NaN."""
    classes, scores = np.arange(len(names)), log_odds(logits)
    present = np.isin(classes, labels)
    ap, auroc = np.full((2, len(names)), np.nan)
    for c in classes[present]:
        positive = labels == c
        ap[c] = reference.average_precision_score(positive, scores[:, c])
        if not positive.all():
            auroc[c] = reference.roc_auc_score(positive, scores[:, c])
    intervals, counts = confidence_intervals(logits, labels), np.bincount(labels, minlength=len(names))
    return {
        "ap": _by_class(names, ap),
        "ap_ci": _by_class(names, intervals["ap"]),
        "macro_ap": ap[present].mean(),
        "macro_ap_ci": intervals["macro_ap"],
        "macro_auroc": auroc[present].mean() if present.sum() > 1 else np.nan,
        "counts": _by_class(names, counts),
        "chance_ap": _by_class(names, counts / len(labels)),
    }


def _label_scores(predictions: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """The scores of predicted labels; undefined ones are NaN."""
    options: dict[str, Any] = {"labels": np.arange(len(names)), "zero_division": np.nan}
    confusion = reference.confusion_matrix(labels, predictions, labels=options["labels"])
    sizes, correct = confusion.sum(axis=1), np.diag(confusion)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predictions, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about predicted classes that no label has
        ba = reference.balanced_accuracy_score(labels, predictions)
        mcc = reference.matthews_corrcoef(labels, predictions)
    return {
        "ba": ba,
        "ba_ci": ba_interval(correct[sizes > 0], sizes[sizes > 0]),
        "accuracy": reference.accuracy_score(labels, predictions),
        "precision": _by_class(names, precision),
        "recall": _by_class(names, recall),
        "recall_ci": _by_class(names, recall_intervals(correct, sizes)),
        "f1": _by_class(names, f1),
        "macro_f1": reference.f1_score(labels, predictions, average="macro"),
        "mcc": mcc,
        "n": len(labels),
        "confusion": confusion,
    }


def _calibration_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The scores of the softmax of class logits."""
    log_probs = logits - logsumexp(logits, axis=1, keepdims=True)
    probabilities, top = np.exp(log_probs), logits.argmax(axis=1)
    correct, confidences = top == labels, np.exp(log_probs.max(axis=1)).round(12)
    ends = -(-len(labels) * np.arange(1, ECE_BINS) // ECE_BINS)  # of the bins in the order of the confidences
    bins = np.digitize(
        confidences, np.sort(confidences)[ends - 1], right=True
    )  # equal confidences share the first one's
    gaps = [np.abs((correct - confidences)[bins == b].sum()) for b in range(ECE_BINS)]
    brier = np.square(probabilities - np.eye(logits.shape[1])[labels]).sum(axis=1).mean()
    return {
        "ece": sum(gaps) / len(labels),
        "brier": brier / 2 if logits.shape[1] == 2 else brier,
        "nll": -log_probs[np.arange(len(labels)), labels].mean(),
    }


def _by_class(names: list[str], values: Any) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _format(value: Any) -> str:
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    text = f"{value:.9g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
