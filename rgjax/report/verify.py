"""Results computed again from predictions.npz, by scikit-learn; and files held to their checksums.

Two things alone are shared with the run. The scores that AP and AUROC rank by are log-odds as rgjax.metrics defines
them, computed in the same order of operations, so that the same rows tie. And the bootstrap intervals are resampled by
rgjax.metrics: another generator would draw another interval.
"""

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics as reference

from rgjax.metrics import bootstrap_intervals
from rgjax.report.reading import class_logits, flat
from rgjax.storage import manifest

# Sums in float64 of some thousand terms, in another order, agree to 1e-12. A row counted otherwise moves an accuracy by
# 1 / n, and two rows ranked otherwise an AP or AUROC by about 1 / n²: more than this up to a thousand rows.
TOLERANCE = 1e-6
# Of 1 + the largest logit: how much nearer two scores may come by exp and log in float32, four times in each gap.
_ROUNDING = 2.0**-20
_RESAMPLED = 10  # about the most often that a resample holds a row, whose slack then counts as often
_SHOWN = 4  # differences that are told of a run


@dataclass
class Verdict:
    """What was found of a finished run: it is verified where nothing differs and a manifest says so of the files."""

    folder: Path
    has_manifest: bool
    differences: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        return "DIFFERS" if self.differences else "OK" if self.has_manifest else "unverified"

    def line(self, directory: Path) -> str:
        name, more = self.folder.relative_to(directory).as_posix(), len(self.differences) - _SHOWN
        told = self.differences[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        told += [] if self.has_manifest else ["no manifest"]
        return f"{self.state:<11} {name}" + (f": {'; '.join(told)}" if told else "")


@dataclass(frozen=True)
class Figure:
    """What a number, or each of an array, has to be, and how far off it may be; NaN is JSON's null."""

    value: Any
    tolerance: float = TOLERANCE

    def agrees(self, stated: Any) -> bool:
        try:
            value, given = np.array(self.value, float), np.array(stated, float)
        except (TypeError, ValueError):  # no numbers
            return False
        if value.shape != given.shape:
            return False
        return bool(((np.abs(value - given) <= self.tolerance) | (np.isnan(value) & np.isnan(given))).all())

    def __str__(self) -> str:
        return _shown(np.array(self.value).tolist())


def verify(directory: Path) -> Iterator[Verdict]:
    """The verdict on each finished run below the folder: on what has a result, or a manifest that should list one."""
    for parent, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "checkpoints")
        if "result.json" in files or {"config.json", manifest.NAME} <= {*files}:
            yield verify_run(Path(parent))


def verify_run(folder: Path) -> Verdict:
    verdict = Verdict(folder, (folder / manifest.NAME).exists())
    if verdict.has_manifest:
        verdict.differences += [f"{name!r}: {damage}" for name, damage in manifest.damages(folder).items()]
    try:
        verdict.differences += _differences(folder)
    except Exception as error:  # damaged files fail in many ways
        verdict.differences.append(f"no figures: {type(error).__name__}: {' '.join(str(error).split())}")
    return verdict


def _differences(folder: Path) -> list[str]:
    result, config = (json.loads((folder / name).read_text("utf-8")) for name in ("result.json", "config.json"))
    stated, expected = flat(result), flat(_expected(folder, config))
    told = [f"{name} is of no class" for name in stated if name not in expected and name.split(".")[0] in _RECOMPUTED]
    for name, figure in expected.items():
        if name not in stated:
            told.append(f"{name} is not there")
        elif not (figure.agrees(stated[name]) if isinstance(figure, Figure) else figure == stated[name]):
            told.append(f"{name} is {_shown(stated[name])}, not {figure}")
    return told


_RECOMPUTED = ("train_counts", "val", "test", "test_by_aggregation")  # the rest: times, the data set's name


def _expected(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What result.json must hold, all but the times and the data set's name."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        found = dict(file)
    with np.load(folder / "regrouping.npz", allow_pickle=False) as file:
        trained_on = file["parent"][file["pseudo_labels"]]
    names, parent, seed = found["class_names"].tolist(), found["parent"], config["seed"]
    if not np.array_equal(np.unique(parent), np.arange(len(names))):
        raise ValueError("predictions.npz: each class has pseudo-classes, and each of these a class")

    def evaluate(part: str, how: str) -> dict[str, Any]:
        logits, labels = found[f"{part}_logits"], found[f"{part}_labels"]
        if len(found[f"{part}_ids"]) != len(labels):
            raise ValueError(f"predictions.npz: there is not one {part}_ids for each label")
        # The largest logit is float32 as it is. A sum was made in float32, somewhat otherwise on each device: what is
        # closer than that was ordered by chance.
        gap = _ROUNDING * (1 + np.abs(logits).max()) if how == "sum" and len(parent) > len(names) else 0.0
        return _figures(class_logits(logits, parent, how), labels, names, seed, gap)

    chosen = config["regroup"]["aggregate"]
    tested = {how: evaluate("test", how) for how in ("max", "sum")}
    return {
        "method": config["method"],
        "seed": seed,
        "num_classes": len(names),
        "num_pseudo_classes": len(parent),
        "aggregate": chosen,
        "train_counts": dict(zip(names, np.bincount(trained_on, minlength=len(names)).tolist(), strict=True)),
        "val": evaluate("val", chosen),
        "test": tested[chosen],
        "test_by_aggregation": tested,
    }


def _figures(logits: np.ndarray, labels: np.ndarray, names: list[str], seed: int, gap: float) -> dict[str, Any]:
    """The figures of class logits [n, C]; scores no further apart than `gap` may have any order."""
    classes, guesses, scores = np.arange(len(names)), logits.argmax(axis=1), _log_odds(logits)
    present = np.isin(classes, labels)
    ap, auroc, ap_slack, auroc_slack = np.full((4, len(names)), np.nan)
    for c in classes[present]:
        own = labels == c
        ap[c] = reference.average_precision_score(own, scores[:, c])
        if not own.all():
            auroc[c] = reference.roc_auc_score(own, scores[:, c])
        ap_slack[c], auroc_slack[c] = _slack(scores[own, c], scores[~own, c], gap)
    highest = np.sort(logits, axis=1)
    unsure = (highest[:, -1] - highest[:, -2] <= gap) & (gap > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that are guessed and absent
        ba = reference.balanced_accuracy_score(labels, guesses)
    ba_slack = float(np.mean([unsure[labels == c].mean() for c in classes[present]]))
    intervals = bootstrap_intervals(logits, labels, seed=seed)
    counts = np.bincount(labels, minlength=len(names))

    def by_class(values, slack):
        return {name: Figure(values[c], TOLERANCE + slack[c]) for c, name in enumerate(names)}

    exact = np.zeros(len(names))
    return {
        "ba": Figure(ba, TOLERANCE + ba_slack),
        "ba_ci": Figure(intervals["ba"], TOLERANCE + _RESAMPLED * ba_slack),
        "ap": by_class(ap, ap_slack),
        "ap_ci": by_class(intervals["ap"], _RESAMPLED * ap_slack),
        "macro_ap": Figure(ap[present].mean(), TOLERANCE + ap_slack[present].mean()),
        "macro_ap_ci": Figure(intervals["macro_ap"], TOLERANCE + _RESAMPLED * ap_slack[present].mean()),
        "accuracy": Figure(reference.accuracy_score(labels, guesses), TOLERANCE + float(unsure.mean())),
        "macro_auroc": Figure(
            auroc[present].mean() if present.sum() > 1 else np.nan, TOLERANCE + auroc_slack[present].mean()
        ),
        "n": Figure(len(labels)),
        "counts": by_class(counts, exact),
        "chance_ap": by_class(counts / len(labels), exact),
        "confusion": Figure(reference.confusion_matrix(labels, guesses, labels=classes), float(unsure.sum())),
    }


def _log_odds(logits: np.ndarray) -> np.ndarray:
    others = [np.delete(logits, c, axis=1) for c in range(logits.shape[1])]
    tops = [rest.max(axis=1) for rest in others]
    sums = [np.log(np.exp(rest - top[:, None]).sum(axis=1)) for rest, top in zip(others, tops, strict=True)]
    return np.stack([logits[:, c] - tops[c] - sums[c] for c in range(len(others))], axis=1)


def _slack(own: np.ndarray, others: np.ndarray, gap: float) -> tuple[float, float]:
    """How far AP and AUROC may be off where the scores `own` of a class and `others` no further apart than `gap` may
    have any order; those that are equal stay so."""
    if not gap:
        return 0.0, 0.0
    own, others = np.sort(own), np.sort(others)

    def at_least(scores, least):
        return len(scores) - np.searchsorted(scores, least, side="left")

    tied = [at_least(scores, own) - at_least(scores, np.nextafter(own, np.inf)) for scores in (own, others)]
    hits, misses = at_least(own, own), at_least(others, own)
    most = at_least(own, own - gap) / (at_least(own, own - gap) + at_least(others, own + gap) + tied[1])
    fewest = at_least(own, own + gap) + tied[0]
    least = fewest / (fewest + at_least(others, own - gap))
    precision = hits / (hits + misses)
    near = at_least(others, own - gap) - at_least(others, own + gap) - tied[1]
    return float(max((most - precision).mean(), (precision - least).mean())), near.mean() / max(1, len(others))


def _shown(value: Any) -> str:
    text = f"{value:.9g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
