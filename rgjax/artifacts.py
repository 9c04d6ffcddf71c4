"""Write the files of a run, and check a workdir before it is used."""

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rgjax import decision, metrics
from rgjax.config import Config, identity, reads_counts, recorded_config
from rgjax.data import Dataset
from rgjax.data.notes import Note, fewer_groups, note
from rgjax.decision import Decision, fit_decision
from rgjax.errors import UserError
from rgjax.models.factory import PRETRAINED, PRETRAINED_FILES, model_checkpoint, starts_from_checkpoint
from rgjax.models.pretrained import TENSORS
from rgjax.models.tokenizer import FILES
from rgjax.regroup import AGGREGATIONS, Regrouping, cluster_counts, least_size
from rgjax.report.pictures import draw_groups, draw_synthetic
from rgjax.sampling import Synthetic
from rgjax.sharding import is_first_process
from rgjax.storage import manifest, provenance
from rgjax.storage.files import digest, read_json_object, set_aside, write_json, write_npz
from rgjax.training.task import Task, least_group
from rgjax.training.trainer import Outcome, Trial

_log = logging.getLogger(__name__)

START_FILES = (
    *("config.json", "provenance.json", "split.npz", "regrouping.npz"),
    *(f"{PRETRAINED}/{name}" for name in (*PRETRAINED_FILES, TENSORS)),
)
RESULT_FILES = (*START_FILES, "metrics.jsonl", "predictions.npz", decision.FILE, "result.json")


def read_result(workdir: Path) -> dict:
    """The content of result.json of a finished run."""
    return json.loads((workdir / "result.json").read_text())


def set_damaged_aside(workdir: Path) -> None:
    """Move corrupted files aside, so that a resumed run writes them again."""
    if is_first_process():
        for name, reason in manifest.damages(workdir).items():
            if name == Path(name).name and (workdir / name).is_file():
                set_aside(workdir / name, reason)


def refuse_another(workdir: Path, config: Config) -> None:
    """Raise UserError if a run with other settings began in the workdir."""
    expected, recorded = identity(config), recorded_identity(workdir)
    if not recorded:
        return
    for name in recorded | expected:
        there, here = recorded.get(name, ""), expected.get(name, "")
        if there != here:
            raise UserError(
                f"--workdir={workdir}: holds a run with config.{name}={there!r}, not {here!r}; use another --workdir"
            )


def recorded_identity(workdir: Path) -> dict[str, Any] | None:
    """The identity of the run in a workdir, None if there is none.

    It is read from config.json, or from provenance.json if that is damaged. Raises UserError if both are.
    """
    provenance_file = workdir / "provenance.json"
    try:
        if not provenance_file.exists():
            return None
        damaged = manifest.damages(workdir, "config.json", "provenance.json")
        for path, key in ((workdir / "config.json", None), (provenance_file, "config")):
            if path.name in damaged:
                continue
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError, KeyError):
                content = read_json_object(path)
                return identity(recorded_config(content[key] if key else content))
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be used: {error.strerror}") from error
    raise UserError(f"--workdir={workdir}: holds a run whose settings are damaged; use another --workdir")


def recorded_choices(workdir: Path) -> dict[str, Any]:
    """What `auto` meant to the run that began in the workdir, and its encoder."""
    recorded = provenance.read(workdir)
    types = {"max_length": int, "image_size": int, "interpolation": str, "encoder": dict}
    return {name: recorded[name] for name, kind in types.items() if isinstance(recorded.get(name), kind)}


def write_start(task: Task, trial: Trial) -> None:
    """Write the files of a run that are known before training."""
    (config, workdir, only_scores), dataset, regrouping = trial, task.dataset, task.regrouping
    if not is_first_process():
        return
    settings = json.loads(config.to_json())
    write_json(workdir / "config.json", settings)
    fingerprints = {"data": dataset.fingerprint, "regrouping": digest(task.clusters)}
    if starts_from_checkpoint(config.model):
        files = FILES if config.model.name == "bert" else PRETRAINED_FILES[1:]
        fingerprints["weights"] = model_checkpoint(config.model).fingerprint(*files)
    if task.synthetic:
        fingerprints["synthetic"] = digest(*task.synthetic.inputs)
    if reads_counts(identity(config)) and not np.array_equal(task.counts, regrouping.counts):
        fingerprints["counts of the sampler"] = digest(task.counts)  # older versions trained with other counts
    notes = [note.as_json() for note in dataset.notes]
    provenance.write(workdir / "provenance.json", settings, fingerprints, notes, choices=task.choices)
    if starts_from_checkpoint(config.model):
        model_checkpoint(config.model).copy_files(workdir / PRETRAINED, PRETRAINED_FILES)
    if config.model.name == "pretrained":
        write_json(workdir / PRETRAINED / TENSORS, model_checkpoint(config.model).shapes())
    write_npz(workdir / "split.npz", **dataset.splits, seed=np.array(config.data.seed))
    write_npz(
        workdir / "regrouping.npz",
        rows=dataset.train,
        pseudo_labels=regrouping.pseudo_labels,
        parent=regrouping.parent,
        pool_counts=task.counts,
        class_names=np.array(dataset.class_names),
        **({"group_names": np.array(regrouping.names)} if regrouping.names else {}),
    )
    manifest.write(workdir, START_FILES)
    if only_scores:
        return
    if regrouping.num_pseudo_classes > regrouping.num_classes and not (workdir / "groups" / "sizes.png").exists():
        shown = dataset.ids if dataset.kind == "features" else dataset.inputs
        draw_groups(workdir / "groups", shown, dataset.train, regrouping, task.features, dataset.class_names)
    if isinstance(task.synthetic, Synthetic):
        real = dataset.inputs[dataset.train[task.synthetic.shown]]
        draw_synthetic(workdir / "synthetic", real, regrouping, task.synthetic, dataset.class_names)


def write_result(task: Task, trial: Trial, outcome: Outcome, timing: dict) -> None:
    """Write the predictions of a trial, and its result."""
    if not is_first_process():
        return
    (config, workdir, _), dataset, regrouping = trial, task.dataset, task.regrouping
    splits = {name: dataset.splits[name] for name in outcome.logits}
    write_npz(
        workdir / "predictions.npz",
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
        **{f"{name}_logits": logits for name, logits in outcome.logits.items()},
        **{f"{name}_labels": dataset.labels[indices] for name, indices in splits.items()},
        **{f"{name}_ids": dataset.ids[indices] for name, indices in splits.items()},
    )
    decisions = decide(task, config, outcome.logits["val"])
    write_json(workdir / decision.FILE, decisions_as_json(task, decisions))
    scores = evaluate(task, config, outcome.logits, decisions)
    if missed := task.goal.missed(scores["val_tuned"]["recall"]):
        _log.warning(
            f"config.decision.min_recall={config.decision.min_recall}: on validation {missed}; no offsets were better"
        )
    result = {
        "dataset": dataset.name,
        "method": config.method,
        "seed": config.seed,
        "num_classes": len(dataset.class_names),
        "num_pseudo_classes": regrouping.num_pseudo_classes,
        "aggregate": config.regroup.aggregate,
        "train_counts": counts_by_name(dataset),
        **scores,
        "timing": timing,
    } | ({"skipped_steps": outcome.skipped} if outcome.skipped else {})
    write_json(workdir / "result.json", result)
    manifest.write(workdir, RESULT_FILES)


def decide(task: Task, config: Config, val_logits: np.ndarray) -> dict[str, Decision]:
    """The decision for each aggregation, fitted on the validation split alone."""
    labels, goal = task.dataset.labels[task.dataset.val], task.goal

    def fit(how: str) -> Decision:
        class_logits = task.regrouping.class_logits(val_logits, how)
        return fit_decision(
            class_logits, labels, task.dataset.class_names, costs=goal.costs, min_recall=goal.min_recall
        )

    return by_aggregation(task, config, fit)


def by_aggregation(task: Task, config: Config, function: Callable[[str], Any]) -> dict[str, Any]:
    """A value for each aggregation; without pseudo-classes all are equal."""
    if task.regrouping.num_pseudo_classes > task.regrouping.num_classes:
        return {how: function(how) for how in AGGREGATIONS}
    return dict.fromkeys(AGGREGATIONS, function(config.regroup.aggregate))


def decisions_as_json(task: Task, decisions: Mapping[str, Decision]) -> dict[str, Any]:
    """The content of decision.json."""
    return {
        "split": "val",
        "n": len(task.dataset.val),
        **task.goal.as_json(task.dataset.class_names),
        "by_aggregation": {how: decision.as_json() for how, decision in decisions.items()},
    }


def evaluate(
    task: Task, config: Config, logits: Mapping[str, np.ndarray], decisions: Mapping[str, Decision]
) -> dict[str, Any]:
    """Compute the scores of both splits for all aggregations.

    Args:
        task: the dataset and its pseudo-classes.
        config: the run's settings.
        logits: split -> pseudo-class logits [n, K].
        decisions: aggregation -> what labels and probabilities the tuned scores are of.

    Returns:
        The scores of result.json.
    """
    dataset, chosen, results = task.dataset, config.regroup.aggregate, {}
    for split in ("val", "test"):
        labels = dataset.labels[dataset.splits[split]]

        def score(how: str, split=split, labels=labels) -> tuple[dict, dict]:
            class_logits = task.regrouping.class_logits(logits[split], how)
            plain = metrics.evaluate(class_logits, labels, dataset.class_names)
            return plain, tuned_scores(decisions[how], class_logits, labels)

        scores = by_aggregation(task, config, score)
        for name, place in ((split, 0), (f"{split}_tuned", 1)):
            results[name] = scores[chosen][place]
            results[f"{name}_by_aggregation"] = {how: pair[place] for how, pair in scores.items()}
    return results


def tuned_scores(decision: Decision, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The metrics that a decision changes: of its labels and its probabilities."""
    return {
        **metrics.label_scores(labels, decision.predict(logits), decision.class_names),
        **metrics.calibration_scores(decision.calibrated(logits), labels),
    }


def counts_by_name(dataset: Dataset) -> dict[str, int]:
    """The number of training examples of each class."""
    counts = np.bincount(dataset.labels[dataset.train], minlength=len(dataset.class_names))
    return dict(zip(dataset.class_names, counts.tolist(), strict=True))


def notes_on_groups(regrouping: Regrouping, dataset: Dataset, config: Config, clustering: str) -> tuple[Note, ...]:
    """The notes on missing and on tiny pseudo-classes.

    Args:
        regrouping: the pseudo-classes.
        dataset: whose training examples they hold.
        config: the section `regroup`.
        clustering: that was used.
    """
    counts = np.bincount(dataset.labels[dataset.train], minlength=len(dataset.class_names))
    groups = np.bincount(regrouping.parent, minlength=len(counts))
    if clustering == "none":
        return ()
    asked = cluster_counts(counts, config.rule, config.threshold, max_groups=len(dataset.train))
    # Without bounds, groups are missing only where examples are equal.
    least = least_size(least_group(config), int(counts.min()))
    bounded = cluster_counts(counts, config.rule, config.threshold, least)
    if least < 2 and (bounded == asked).all():
        asked = groups
    names = np.array(regrouping.names or [""] * len(regrouping.parent))
    asked = np.where(np.isin(np.arange(len(groups)), regrouping.parent[names != ""]), groups, asked)
    single = (regrouping.counts == 1) & (groups[regrouping.parent] > 1)
    return (
        *fewer_groups(dataset.class_names, asked, groups, least),
        *note("single_example", (), int((single & (names == "")).sum())),
        *note("single_subclass", names[single & (names != "")]),
    )


def describe_groups(regrouping: Regrouping, dataset: Dataset) -> str:
    """The number of training examples and of groups of each class, in one line."""
    groups = np.bincount(regrouping.parent, minlength=len(dataset.class_names))
    classes = zip(counts_by_name(dataset).items(), groups, strict=True)
    text = ", ".join(f"{name} {n}" + (f" in {k} groups" if k > 1 else "") for (name, n), k in classes)
    return f"training {dataset.kind}: {text}; pseudo-classes: {regrouping.num_pseudo_classes}"
