"""From files to runs: what is half written or damaged becomes a row of that status, never a crash."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rgjax.config import CUSTOM
from rgjax.data import display_name
from rgjax.report.runs import COLUMNS, Label, Plan, Run, is_seed, shown
from rgjax.storage import manifest

_log = logging.getLogger(__name__)


_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
# Settings that may differ between the runs of one mean.
_INCIDENTAL = {"method", "population", "data.data_dir", "data.placement", "trackers", "train.steps_per_call"}


def read_runs(directory: Path) -> list[Run]:
    """All runs below `directory`, sorted. Warns of what is damaged."""
    runs = [run for folder in workdirs(directory) if (run := read_run(folder, directory))]
    for run in runs:
        run.row["study"] = run.row["study"] or _study_of_lone(run, runs)
    for run in runs:
        known = (r.row["dataset"] for r in runs if r.row["dataset"] and r.row["study"] == run.row["study"])
        run.row["dataset"] = run.row["dataset"] or next(known, _called(run))
    _tell_lone_runs_apart(runs)
    runs.sort(key=lambda run: run.order)
    _tell_repetitions([run for run in runs if run.status == "done"])
    return runs


def workdirs(directory: Path) -> Iterator[Path]:
    """The folders with a config.json. That of a population holds no run itself but those of its seeds."""
    for parent, folders, files in os.walk(directory, onerror=lambda error: _log.warning(str(error))):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "checkpoints")
        members = (Path(parent, name, "config.json") for name in folders if name.startswith("seed-"))
        if "config.json" in files and ("result.json" in files or not any(path.exists() for path in members)):
            yield Path(parent)


def read_run(folder: Path, directory: Path) -> Run | None:
    """The run in `folder`; None where config.json is something else's, e.g. that of pretrained weights."""
    damages: list[str] = []
    names = ("config", "run", "result", "failure", "provenance")
    config, record, result, failure, provenance = (
        read_object(folder / f"{name}.json", damages.append) for name in names
    )
    damages += [f"{name} is damaged: {why}" for name, why in manifest.damages(folder, "result.json").items()]
    if not damages and not record and not {"method", "data"} <= config.keys():
        _log.warning(f"{folder / 'config.json'} is not that of a run: left out")
        return None
    settings = {name: _scalar(value) for name, value in flat(config).items()}
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {name: _text(record.get(name)) for name in ("study", "variant", "selected_by", "command")}
    row |= {
        "method": _text(settings.get("method")),
        "variant": row["variant"] or "",
        "aggregate": _text(settings.get("regroup.aggregate")),
        "run_id": _text(record.get("run_id")) or folder.resolve().name,
        "workdir": folder.relative_to(directory).as_posix(),
    }
    overrides, found = {}, {}
    try:
        row |= {"seed": _whole(settings.get("seed")), "data_seed": _whole(settings.get("data.seed"))}
        row["stage"] = {None: None, 1: 1, 2: 2}[record.get("stage")]
        overrides = {name: _scalar(value) for name, value in (record.get("overrides") or {}).items()}
        if result:
            row |= _figures(result)
            found = _by_class(result)
    except _MALFORMED as error:
        damages.append(f"its files do not hold what a run writes: {type(error).__name__}: {error}")
    for damage in damages:
        _log.warning(f"{folder}: {damage}")
    states = (("damaged", damages), ("done", result), ("failed", failure), ("running", provenance), ("pending", True))
    row["status"] = next(status for status, holds in states if holds)
    row["error"] = {"damaged": "; ".join(damages), "failed": _text(failure.get("error"))}.get(row["status"])
    return Run(folder, row, settings, overrides=overrides, provenance=provenance, **found)


def read_sweep(directory: Path) -> tuple[dict[str, Any], dict[str, Plan]]:
    """sweep.json, and how many runs it plans for each study; both empty where there is none."""
    sweep = read_object(directory / "sweep.json", lambda damage: _log.warning(f"{directory}: {damage}"))
    try:
        plans = {
            str(name): {
                Label(key.partition(" ")[0], str(runs["variant"])): {1: int(runs["tuning"]), 2: int(runs["reported"])}
                for key, runs in study["methods"].items()
            }
            for name, study in sweep.get("studies", {}).items()
        }
    except _MALFORMED as error:
        _log.warning(f"{directory}: sweep.json does not hold what a sweep writes: {type(error).__name__}: {error}")
        return {}, {}
    return sweep, plans


def read_object(path: Path, damaged: Callable[[str], None]) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file, or half of one, which is told to `damaged`."""
    try:
        value = _json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, *_MALFORMED) as error:
        damaged(f"{path.name} is damaged: {error}")
        return {}
    if not isinstance(value, dict) or not value:
        damaged(f"{path.name} is damaged: it holds no object")
        return {}
    return value


def read_history(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; empty where there is none. A line that is being written is left out."""
    path, rows = run.folder / "metrics.jsonl", []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _log.warning(f"{path} is damaged and left out: {error}")
        return []
    for number, line in enumerate(lines, start=1):
        try:
            row = _json(line)
            rows.append({name: _known(row[name]) for name in ("step", "epoch", "train_loss", "val_ba")})
        except _MALFORMED:
            _log.warning(f"{path}: line {number} is damaged and left out")
    return rows


def read_test_logits(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Class logits [n, C], by the run's own aggregation, and labels [n] of the test set; None without predictions."""
    path = run.folder / "predictions.npz"
    try:
        if damages := manifest.damages(run.folder, path.name):
            raise ValueError("; ".join(damages.values()))
        with np.load(path, allow_pickle=False) as file:
            logits, labels, parent = file["test_logits"], file["test_labels"], file["parent"]
        by_class = class_logits(logits, parent, run.row["aggregate"])
        if not np.isfinite(by_class).all() or labels.shape != by_class.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError("they are not a finite logit for each class and a label, of every row")
        if labels.min() < 0 or labels.max() >= by_class.shape[1]:
            raise ValueError(f"there are labels beyond the {by_class.shape[1]} classes")
    except FileNotFoundError:
        return None
    except Exception as error:  # half a zip file fails in many ways
        _log.warning(f"{path} is damaged and left out: {type(error).__name__}: {error}")
        return None
    return by_class, labels


def class_logits(logits: np.ndarray, parent: np.ndarray, how: str) -> np.ndarray:
    """The pseudo-class logits [n, K] aggregated to classes [n, C], in float64."""
    merge = np.max if how == "max" else np.logaddexp.reduce
    logits = logits.astype(np.float64)
    return np.stack([merge(logits[:, parent == c], axis=1) for c in range(parent.max() + 1)], axis=1)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"gamma": 2}} as {"loss.gamma": 2}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of result.json as columns."""
    test, timing = result["test"], result["timing"]
    row: dict[str, Any] = {name: _text(result[name]) for name in ("dataset", "method", "aggregate")}
    row |= {name: _whole(result[name]) for name in ("seed", "num_classes", "num_pseudo_classes")}
    row |= {"test_n": _whole(test["n"]), "test_macro_auroc": _number(test["macro_auroc"])}
    row |= {f"{part}_{name}": _number(result[part][name]) for part in _PARTS for name in _SCORES}
    for name in ("ba", "macro_ap"):
        row[f"test_{name}_low"], row[f"test_{name}_high"] = map(_number, test[f"{name}_ci"])
        for how, scores in result["test_by_aggregation"].items():
            row[f"test_{name}_{how}"] = _number(scores[name])
    return row | {name: _number(timing.get(name)) for name in ("compile_s", "train_s", "total_s", "examples_per_s")}


_PARTS, _SCORES = ("val", "test"), ("ba", "macro_ap", "accuracy")


def _by_class(result: dict[str, Any]) -> dict[str, Any]:
    train, held_out = result["train_counts"], [result[part]["counts"] for part in _PARTS]
    confusion = np.array(result["test"]["confusion"], int).reshape(len(train), len(train))
    return {
        **{f"{part}_ap": {name: _number(result[part]["ap"][name]) for name in train} for part in _PARTS},
        "counts": {name: int(train[name]) + sum(int(counts[name]) for counts in held_out) for name in train},
        "confusion": confusion.tolist(),
    }


def _json(text: str) -> Any:
    """What a text in JSON holds. Half of a surrogate pair, which stands for a byte of a file name that is not UTF-8, is
    a question mark: neither a page nor a table could show it."""
    whole = json.dumps(json.loads(text), ensure_ascii=False)
    return json.loads(whole.encode(errors="replace"))


def _known(value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is no figure")
    return number


def _number(value: Any) -> float | None:
    return None if value is None else _known(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(np.int64(value))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, type(None))) else json.dumps(value)


def _study_of_lone(run: Run, runs: Iterable[Run]) -> str:
    """A lone run's data set, by the name that a finished run of the same data gives it."""

    def data(run: Run) -> list:
        return [_called(run), *(run.config.get(f"data.{name}") for name in ("positive", "agreement"))]

    alike = (other.row["dataset"] for other in (run, *runs) if other.row["dataset"] and data(other) == data(run))
    return next(alike, _called(run) or "unknown")


def _called(run: Run) -> str | None:
    name, place = (_text(run.config.get(f"data.{field}")) for field in ("name", "manual_dir"))
    return name and display_name(name, place or "")


def _tell_lone_runs_apart(runs: Iterable[Run]) -> None:
    """Lone runs of one method whose settings differ become variants: a mean over all of them would say nothing."""
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if run.row["stage"] is None and run.status != "damaged":
            groups[run.row["study"], run.row["method"]].append(run)
    for group in groups.values():
        # Where one's own data lie says which they are; where a download lies says nothing.
        elsewhere = set() if any(run.config.get("data.name") in CUSTOM for run in group) else {"data.manual_dir"}
        shared = set.intersection(*(set(run.config) for run in group)) - _INCIDENTAL - elsewhere
        differing = [n for n in sorted(shared) if not is_seed(n) and len({repr(run.config[n]) for run in group}) > 1]
        for run in group:
            run.row["variant"] = run.row["variant"] or shown({name: run.config[name] for name in differing})


def _tell_repetitions(runs: Iterable[Run]) -> None:
    first: dict[tuple, Run] = {}
    for run in runs:
        if (original := first.setdefault(run.identity, run)) is not run:
            _log.warning(f"{run.folder} repeats {original.folder}: it counts once")
