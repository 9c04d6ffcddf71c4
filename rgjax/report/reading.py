"""Reads workdirs into run records; damaged files become a status, never a crash."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rgjax.config import CUSTOM, NON_IDENTITY_FIELDS
from rgjax.data import display_name
from rgjax.regroup.aggregation import class_logits
from rgjax.report.runs import COLUMNS, Entry, RunRecord, StudyPlan, format_settings, is_seed
from rgjax.storage import manifest

_log = logging.getLogger(__name__)

_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
# Runs that differ in these fields may share a mean: the method has its own column, the others do not change a result.
_IGNORED_FIELDS = {*NON_IDENTITY_FIELDS, "method", "population", "train.steps_per_call"}
_SPLITS, _SCORES = ("val", "test"), ("ba", "macro_ap", "accuracy")
_DECIDED = ("macro_f1", "mcc", "ece", "brier", "nll")  # older runs lack them, and all scores at tuned thresholds


# Runs


def read_runs(directory: Path) -> list[RunRecord]:
    """All runs below `directory`, sorted. Warns of damaged files."""
    runs = [run for folder in workdirs(directory) if (run := read_run(folder, directory))]
    for run in runs:
        run.row["study"] = run.row["study"] or _study_of_single(run, runs)
    for run in runs:
        names = (r.row["dataset"] for r in runs if r.row["dataset"] and r.row["study"] == run.row["study"])
        run.row["dataset"] = run.row["dataset"] or next(names, _dataset_name(run))
    _make_variants_of_single_runs(runs)
    runs.sort(key=lambda run: run.order)
    _warn_of_repetitions([run for run in runs if run.status == "done"])
    return runs


def workdirs(directory: Path) -> Iterator[Path]:
    """The folders with a config.json; of a population, those of its seeds."""
    for parent, folders, files in os.walk(directory, onerror=lambda error: _log.warning(str(error))):
        skipped = {"checkpoints", *(["pretrained"] if "config.json" in files else [])}  # folders of a run
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped)
        members = (Path(parent, name, "config.json") for name in folders if name.startswith("seed-"))
        if "config.json" in files and ("result.json" in files or not any(path.exists() for path in members)):
            yield Path(parent)


def read_run(folder: Path, directory: Path) -> RunRecord | None:
    """The run in `folder`; None if its config.json is not a run's."""
    damages: list[str] = []
    names = ("config", "run", "result", "failure", "provenance")
    config, record, result, failure, provenance = (
        read_object(folder / f"{name}.json", damages.append) for name in names
    )
    damages += [f"{name}: corrupted ({reason})" for name, reason in manifest.damages(folder, "result.json").items()]
    if not damages and not record and not {"method", "data"} <= config.keys():
        _log.warning(f"{folder / 'config.json'}: not the config of a run; skipped")
        return None

    # Columns of every run
    settings = {name: _scalar(value) for name, value in flatten(config).items()}
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {name: _text(record.get(name)) for name in ("study", "variant", "selected_by", "command")}
    row |= {
        "method": _text(settings.get("method")),
        "variant": row["variant"] or "",
        "aggregate": _text(settings.get("regroup.aggregate")),
        "run_id": _text(record.get("run_id")) or folder.resolve().name,
        "workdir": folder.relative_to(directory).as_posix(),
    }

    # Columns of runs from sweeps, and of finished runs
    overrides, scores = {}, {}
    try:
        row |= {"seed": _whole(settings.get("seed")), "data_seed": _whole(settings.get("data.seed"))}
        row["fold"] = _whole(settings.get("data.fold")) if settings.get("data.folds") else None
        row["stage"] = {None: None, 1: 1, 2: 2}[record.get("stage")]
        overrides = {name: _scalar(value) for name, value in (record.get("overrides") or {}).items()}
        if result:
            row |= _result_columns(result)
            scores = _class_scores(result)
    except _MALFORMED as error:
        damages.append(f"malformed ({type(error).__name__}: {error}); a run does not write such files")

    for damage in damages:
        _log.warning(f"{folder}: {damage}")
    states = (("damaged", damages), ("done", result), ("failed", failure), ("running", provenance), ("pending", True))
    row["status"] = next(status for status, holds in states if holds)
    row["error"] = {"damaged": "; ".join(damages), "failed": _text(failure.get("error"))}.get(row["status"])
    return RunRecord(folder, row, settings, overrides=overrides, provenance=provenance, **scores)


def _result_columns(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of results.parquet that result.json fills."""
    test, timing = result["test"], result["timing"]
    row: dict[str, Any] = {name: _text(result[name]) for name in ("dataset", "method", "aggregate")}
    row |= {name: _whole(result[name]) for name in ("seed", "num_classes", "num_pseudo_classes")}
    row |= {"test_n": _whole(test["n"]), "test_macro_auroc": _number(test["macro_auroc"])}
    row |= {f"{split}_{name}": _number(result[split][name]) for split in _SPLITS for name in _SCORES}
    row["train_n"] = sum(map(int, result["train_counts"].values()))
    for name in ("ba", "macro_ap"):
        row[f"test_{name}_low"], row[f"test_{name}_high"] = map(_number, test[f"{name}_ci"])
        for how, scores in result["test_by_aggregation"].items():
            row[f"test_{name}_{how}"] = _number(scores[name])
    row |= {f"test_{name}": _number(test.get(name)) for name in _DECIDED}
    if tuned := result.get("test_tuned"):
        row |= {f"test_tuned_{name}": _number(tuned[name]) for name in ("ba", "accuracy", *_DECIDED)}
        row["test_tuned_ba_low"], row["test_tuned_ba_high"] = map(_number, tuned["ba_ci"])
        for how, scores in result["test_tuned_by_aggregation"].items():
            row[f"test_tuned_ba_{how}"] = _number(scores["ba"])
    return row | {name: _number(timing.get(name)) for name in ("compile_s", "train_s", "total_s", "examples_per_s")}


def _class_scores(result: dict[str, Any]) -> dict[str, Any]:
    """The fields of RunRecord that result.json fills, by class."""
    train, held_out = result["train_counts"], [result[split]["counts"] for split in _SPLITS]
    test, tuned = result["test"], result.get("test_tuned")
    confusion = np.array(test["confusion"], int).reshape(len(train), len(train))
    scores, intervals = _rates(confusion, train), {"ap": test["ap_ci"], "recall": test.get("recall_ci")}
    if tuned:
        at_tuned = _rates(np.array(tuned["confusion"], int).reshape(confusion.shape), train)
        scores |= {f"tuned_{name}": values for name, values in at_tuned.items()}
        intervals["tuned_recall"] = tuned.get("recall_ci")
    return {
        **{f"{split}_ap": {name: _number(result[split]["ap"][name]) for name in train} for split in _SPLITS},
        "counts": {name: int(train[name]) + sum(int(counts[name]) for counts in held_out) for name in train},
        "test_counts": {name: int(test["counts"][name]) for name in train},
        "class_scores": scores,
        "class_intervals": {
            name: {key: (_finite(low), _finite(high)) for key, (low, high) in bounds.items() if low is not None}
            for name, bounds in intervals.items()
            if bounds
        },
        "confusion": confusion.tolist(),
    }


def _rates(confusion: np.ndarray, names: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Precision, recall and F1 of each class; None for 0 / 0.

    Runs of older versions hold no more than the confusion matrix.
    """
    hits, examples, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    shares = {
        "precision": (hits, predicted),
        "recall": (hits, examples),
        "f1": (2 * hits, examples + predicted),
    }
    return {
        score: {name: float(a / b) if b else None for name, a, b in zip(names, above, below, strict=True)}
        for score, (above, below) in shares.items()
    }


# Single runs, which no sweep started


def _study_of_single(run: RunRecord, runs: Iterable[RunRecord]) -> str:
    """The data set's name, from the result of any finished run on the same data."""

    def data(run: RunRecord) -> list:
        return [_dataset_name(run), *(run.config.get(f"data.{name}") for name in ("positive", "agreement"))]

    same_data = (each.row["dataset"] for each in (run, *runs) if each.row["dataset"] and data(each) == data(run))
    return next(same_data, _dataset_name(run) or "unknown")


def _dataset_name(run: RunRecord) -> str | None:
    name, folder = (_text(run.config.get(f"data.{field}")) for field in ("name", "manual_dir"))
    return name and display_name(name, folder or "")


def _make_variants_of_single_runs(runs: Iterable[RunRecord]) -> None:
    """Make single runs of a method with different settings variants of the method.

    Their results must not be averaged.
    """
    by_method: dict[tuple, list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.row["stage"] is None and run.status != "damaged":
            by_method[run.row["study"], run.row["method"]].append(run)
    for group in by_method.values():
        # The path of custom data identifies it; the path of a download does not.
        custom = any(run.config.get("data.name") in CUSTOM for run in group)
        shared = set.intersection(*(set(run.config) for run in group))
        compared = shared - (_IGNORED_FIELDS - {"data.manual_dir"} if custom else _IGNORED_FIELDS)
        differing = [n for n in sorted(compared) if not is_seed(n) and len({repr(run.config[n]) for run in group}) > 1]
        for run in group:
            settings = {name: run.config[name] for name in differing}
            run.row["variant"] = run.row["variant"] or format_settings(settings)


def _warn_of_repetitions(runs: Iterable[RunRecord]) -> None:
    first: dict[tuple, RunRecord] = {}
    for run in runs:
        if (original := first.setdefault(run.identity, run)) is not run:
            _log.warning(f"{run.folder}: repeats {original.folder}; counted once")


# Other files


def read_sweep(directory: Path) -> tuple[dict[str, Any], dict[str, StudyPlan]]:
    """The content of sweep.json, and its plans by study; both empty if there is none."""
    sweep = read_object(directory / "sweep.json", lambda damage: _log.warning(f"{directory}: {damage}"))
    try:
        plans = {
            str(name): {
                Entry(key.partition(" ")[0], str(runs["variant"])): {1: int(runs["tuning"]), 2: int(runs["reported"])}
                for key, runs in study["methods"].items()
            }
            for name, study in sweep.get("studies", {}).items()
        }
    except _MALFORMED as error:
        _log.warning(f"{directory / 'sweep.json'}: malformed ({type(error).__name__}: {error}); ignored")
        return {}, {}
    return sweep, plans


def read_history(run: RunRecord) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; empty if there is none. Skips incomplete lines."""
    path, rows = run.folder / "metrics.jsonl", []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _log.warning(f"{path}: corrupted ({error}); skipped")
        return []
    for number, line in enumerate(lines, start=1):
        try:
            row = _parse_json(line)
            rows.append({name: _finite(row[name]) for name in ("step", "epoch", "train_loss", "val_ba")})
        except _MALFORMED:
            _log.warning(f"{path}: line {number} is corrupted; skipped")
    return rows


def read_test_logits(run: RunRecord) -> tuple[np.ndarray, np.ndarray] | None:
    """Class logits [n, C], by the run's aggregation, and labels [n] of the test set.

    None if there are no predictions, or, with a warning, if the file is corrupted.
    """
    path = run.folder / "predictions.npz"
    try:
        if damages := manifest.damages(run.folder, path.name):
            raise ValueError("; ".join(damages.values()))
        with np.load(path, allow_pickle=False) as file:
            logits, labels, parent = file["test_logits"], file["test_labels"], file["parent"]
        by_class = class_logits(logits, parent, run.row["aggregate"])
        if not np.isfinite(by_class).all() or labels.shape != by_class.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError("not a label and a finite logit for each class, for every example")
        if labels.min() < 0 or labels.max() >= by_class.shape[1]:
            raise ValueError(f"labels outside 0 to {by_class.shape[1] - 1}")
    except FileNotFoundError:
        return None
    except Exception as error:  # a truncated zip file fails in many ways
        _log.warning(f"{path}: corrupted ({type(error).__name__}: {error}); skipped")
        return None
    return by_class, labels


# JSON


def read_object(path: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or if it is corrupted.

    `report` is called with the reason for corruption.
    """
    try:
        value = _parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, *_MALFORMED) as error:
        report(f"{path.name}: corrupted ({error})")
        return {}
    if not isinstance(value, dict) or not value:
        report(f"{path.name}: corrupted (not a JSON object)")
        return {}
    return value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"gamma": 2}} as {"loss.gamma": 2}."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _parse_json(text: str) -> Any:
    """Parse JSON; lone surrogates become question marks.

    UTF-8 cannot store them. They come from file names that are not UTF-8.
    """
    whole = json.dumps(json.loads(text), ensure_ascii=False)
    return json.loads(whole.encode(errors="replace"))


def _finite(value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _number(value: Any) -> float | None:
    return None if value is None else _finite(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(np.int64(value))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, type(None))) else json.dumps(value)
