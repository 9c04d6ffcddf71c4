"""The files of a run: written at its start and at its end, checked, and refused to another run."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from rgjax import metrics
from rgjax.config import Config, identity, recorded_config
from rgjax.data import Dataset
from rgjax.errors import UserError
from rgjax.models.factory import bert_checkpoint
from rgjax.models.tokenizer import FILES
from rgjax.regroup import AGGREGATIONS, Regrouping
from rgjax.report.pictures import draw_groups, draw_synthetic
from rgjax.sharding import is_first_process
from rgjax.storage import manifest, provenance
from rgjax.storage.files import digest, set_aside, write_json, write_npz
from rgjax.training.trainer import Outcome, Task, Trial

START_FILES = ("config.json", "provenance.json", "split.npz", "regrouping.npz")
RESULT_FILES = (*START_FILES, "metrics.jsonl", "predictions.npz", "result.json")

finished = manifest.finished


def read_result(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def set_damaged_aside(workdir: Path) -> None:
    """Move corrupted files aside, so that resuming from the last checkpoint writes them again."""
    if is_first_process():
        for name, reason in manifest.damages(workdir).items():
            if name == Path(name).name and (workdir / name).is_file():
                set_aside(workdir / name, reason)


def refuse_another(workdir: Path, config: Config) -> None:
    """Raise UserError where a run with other settings has begun in the workdir."""
    ours, theirs = identity(config), begun(workdir)
    if theirs and (name := next((name for name in ours if ours[name] != theirs[name]), None)):
        raise UserError(
            f"--workdir={workdir}: holds a run with config.{name}={theirs[name]!r}, not {ours[name]!r}; use another "
            "--workdir"
        )


def begun(workdir: Path) -> dict[str, Any] | None:
    """The identity of the run that began in a workdir, by config.json, or by provenance.json where that is damaged.

    Raises UserError where both are damaged.
    """
    recorded = workdir / "provenance.json"
    try:
        if not recorded.exists():
            return None
        damaged = manifest.damages(workdir)
        for path, key in ((workdir / "config.json", None), (recorded, "config")):
            if path.name in damaged:
                continue
            with contextlib.suppress(
                FileNotFoundError, ValueError, TypeError, AttributeError, KeyError, RecursionError
            ):
                content = json.loads(path.read_text())
                return identity(recorded_config(content[key] if key else content))
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be used: {error.strerror}") from error
    raise UserError(f"--workdir={workdir}: holds a run whose settings are damaged; use another --workdir")


def write_start(task: Task, trial: Trial) -> None:
    """Write the files known before training: settings, provenance, split, label map and their pictures."""
    (config, workdir), dataset, regrouping = trial, task.dataset, task.regrouping
    if not is_first_process():
        return
    settings = json.loads(config.to_json())
    write_json(workdir / "config.json", settings)
    fingerprints = {"data": dataset.fingerprint, "regrouping": digest(task.clusters)}
    if config.model.name == "bert":
        fingerprints["weights"] = bert_checkpoint(config.model).fingerprint(*FILES)
    if task.synthetic:
        fingerprints["synthetic"] = digest(*task.synthetic.images)
    provenance.write(workdir / "provenance.json", settings, **fingerprints)
    write_npz(workdir / "split.npz", **dataset.splits, seed=np.array(config.data.seed))
    write_npz(
        workdir / "regrouping.npz",
        rows=dataset.train,
        pseudo_labels=regrouping.pseudo_labels,
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
    )
    manifest.write(workdir, START_FILES)
    if regrouping.num_pseudo_classes > regrouping.num_classes and not (workdir / "groups" / "sizes.png").exists():
        draw_groups(workdir / "groups", dataset.inputs, dataset.train, regrouping, task.features, dataset.class_names)
    if task.synthetic:
        real = dataset.inputs[dataset.train[task.synthetic.shown]]
        draw_synthetic(workdir / "synthetic", real, regrouping, task.synthetic, dataset.class_names)


def write_result(task: Task, trial: Trial, outcome: Outcome, timing: dict) -> None:
    """Write a trial's predictions, and the result that they amount to under both aggregations."""
    (config, workdir), dataset, regrouping = trial, task.dataset, task.regrouping
    if not is_first_process():
        return
    splits = {name: dataset.splits[name] for name in outcome.logits}
    write_npz(
        workdir / "predictions.npz",
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
        **{f"{name}_logits": logits for name, logits in outcome.logits.items()},
        **{f"{name}_labels": dataset.labels[indices] for name, indices in splits.items()},
        **{f"{name}_ids": dataset.ids[indices] for name, indices in splits.items()},
    )

    def score(split: str, how: str) -> dict:
        logits = regrouping.class_logits(outcome.logits[split], how)
        return metrics.evaluate(logits, dataset.labels[splits[split]], dataset.class_names, seed=config.seed)

    chosen = config.regroup.aggregate
    test = {chosen: score("test", chosen)}
    # Where no class is split, the aggregations are equal.
    others = [how for how in AGGREGATIONS if how != chosen]
    split_up = regrouping.num_pseudo_classes > regrouping.num_classes
    test |= {how: score("test", how) if split_up else test[chosen] for how in others}
    result = {
        "dataset": dataset.name,
        "method": config.method,
        "seed": config.seed,
        "num_classes": len(dataset.class_names),
        "num_pseudo_classes": regrouping.num_pseudo_classes,
        "aggregate": chosen,
        "train_counts": counts_by_name(dataset),
        "val": score("val", chosen),
        "test": test[chosen],
        "test_by_aggregation": {how: test[how] for how in AGGREGATIONS},
        "timing": timing,
    } | ({"skipped_steps": outcome.skipped} if outcome.skipped else {})
    write_json(workdir / "result.json", result)
    manifest.write(workdir, RESULT_FILES)


def counts_by_name(dataset: Dataset) -> dict[str, int]:
    """Training examples of each class."""
    counts = np.bincount(dataset.labels[dataset.train], minlength=len(dataset.class_names))
    return dict(zip(dataset.class_names, counts.tolist(), strict=True))


def describe_groups(regrouping: Regrouping, dataset: Dataset) -> str:
    """Training examples and groups of each class, in one line."""
    groups = np.bincount(regrouping.parent, minlength=len(dataset.class_names))
    classes = zip(counts_by_name(dataset).items(), groups, strict=True)
    text = ", ".join(f"{name} {n}" + (f" in {k} groups" if k > 1 else "") for (name, n), k in classes)
    return f"training {dataset.kind}: {text}; pseudo-classes: {regrouping.num_pseudo_classes}"
