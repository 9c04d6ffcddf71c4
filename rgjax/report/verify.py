"""Recomputes results with scikit-learn, and checks files against their checksums.

Aggregation to class logits, log-odds and intervals come from rgjax itself (`rgjax.regroup.aggregation`,
`rgjax.metrics`); all other scores are computed independently from these class logits and log-odds.
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
from sklearn import metrics as reference

from rgjax.metrics import confidence_intervals, log_odds
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
_RECOMPUTED = ("train_counts", "val", "test", "test_by_aggregation")  # all entries must be expected ones
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
    return name.partition(".")[0] in _RECOMPUTED


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

    def score(split: str, how: str) -> dict[str, Any]:
        logits, labels = predictions[f"{split}_logits"], predictions[f"{split}_labels"]
        if len(predictions[f"{split}_ids"]) != len(labels):
            raise ValueError(f"predictions.npz: {split}_ids and {split}_labels differ in length")
        return _expected_scores(class_logits(logits, parent, how), labels, names)

    chosen = config["regroup"]["aggregate"]
    test = {how: score("test", how) for how in AGGREGATIONS}
    return {
        "method": config["method"],
        "seed": config["seed"],
        "num_classes": len(names),
        "num_pseudo_classes": len(parent),
        "aggregate": chosen,
        "train_counts": dict(zip(names, np.bincount(train_labels, minlength=len(names)).tolist(), strict=True)),
        "val": score("val", chosen),
        "test": test[chosen],
        "test_by_aggregation": test,
    }


def _expected_scores(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """All scores of class logits [n, C] and labels [n]; undefined ones are NaN."""
    classes, predictions, scores = np.arange(len(names)), logits.argmax(axis=1), log_odds(logits)
    present = np.isin(classes, labels)
    ap, auroc = np.full((2, len(names)), np.nan)
    for c in classes[present]:
        positive = labels == c
        ap[c] = reference.average_precision_score(positive, scores[:, c])
        if not positive.all():
            auroc[c] = reference.roc_auc_score(positive, scores[:, c])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about predicted classes that no label has
        ba = reference.balanced_accuracy_score(labels, predictions)
    intervals = confidence_intervals(logits, labels)
    counts = np.bincount(labels, minlength=len(names))

    def by_class(values: np.ndarray) -> dict[str, Any]:
        return dict(zip(names, values, strict=True))

    return {
        "ba": ba,
        "ba_ci": intervals["ba"],
        "ap": by_class(ap),
        "ap_ci": by_class(intervals["ap"]),
        "macro_ap": ap[present].mean(),
        "macro_ap_ci": intervals["macro_ap"],
        "accuracy": reference.accuracy_score(labels, predictions),
        "macro_auroc": auroc[present].mean() if present.sum() > 1 else np.nan,
        "n": len(labels),
        "counts": by_class(counts),
        "chance_ap": by_class(counts / len(labels)),
        "confusion": reference.confusion_matrix(labels, predictions, labels=classes),
    }


def _format(value: Any) -> str:
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    text = f"{value:.9g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
