"""The method, read from top to bottom: data, features, groups, sampling, training, aggregation, result."""

import json
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rgjax import data, manifest, metrics, provenance
from rgjax.balance.deepsmote import Synthetic, deepsmote
from rgjax.balance.samplers import SAMPLERS
from rgjax.build import Say, bert_checkpoint, compute_dtype, load_data, make_encoder, make_model, network_inputs
from rgjax.config import TRACED, Config, identity
from rgjax.devices import is_first_process, make_mesh, wait_for_all
from rgjax.encoders import features
from rgjax.errors import UserError
from rgjax.figures import draw_groups, draw_synthetic
from rgjax.models.tokenizer import FILES
from rgjax.regroup import AGGREGATIONS, BY_FEATURES, Regrouping, regroup
from rgjax.storage import cache_dir, cached_arrays, digest, set_aside, write_json, write_npz
from rgjax.trackers import require
from rgjax.trainer import Task, Trial, train
from rgjax.training.checkpoints import newest_step

BEGUN = ("config.json", "provenance.json", "split.npz", "regrouping.npz")  # files of a run under way


def run(config: Config, workdir: Path, say: Say) -> dict:
    """Run, or go on with, the experiment that `config` describes, and return what stands in `result.json`.

    A finished workdir returns its result at once; what is damaged there is made anew. Raises UserError for what the
    user can mend.
    """
    return run_population([Trial(config, workdir)], say)[0]


def run_population(trials: Sequence[Trial], say: Say) -> list[dict]:
    """Run several experiments as one program; their settings differ in those alone that `config.TRACED` names.

    Each leaves in its workdir what it would leave alone, and those that were interrupted equally far go on together.
    Raises UserError as `run` does; for a loss that is not finite, after the other trials have ended.
    """
    fixed = [{k: v for k, v in identity(trial.config).items() if k not in TRACED} for trial in trials]
    if any(settings != fixed[0] for settings in fixed):
        raise ValueError("trials of a population differ in settings that are not traced")
    if waiting := [trial for trial in trials if not manifest.finished(trial.workdir)]:
        for trial in waiting:
            mend(trial.workdir)
        complete(waiting, say)
        wait_for_all("results")
    return [json.loads((trial.workdir / "result.json").read_text()) for trial in trials]


def mend(workdir: Path) -> None:
    """Set aside what the manifest tells to be damaged: going on from the last checkpoint makes it anew."""
    if is_first_process():
        for name, why in manifest.damages(workdir).items():
            if name == Path(name).name and (workdir / name).is_file():
                set_aside(workdir / name, why)


def complete(trials: Sequence[Trial], say: Say) -> None:
    """The story: from data to a result in each workdir."""
    started, lost = time.perf_counter(), []
    for trial in trials:
        require(trial.config.trackers)
    task = prepare(trials, say)
    for _, equally_far in groupby(sorted(trials, key=progress), progress):
        together = list(equally_far)
        models = [make_model(trial.config, task.regrouping.num_pseudo_classes, say) for trial in together]
        # All that a user may have to mend is read by now: from here on the workdirs are these runs'.
        for trial in together:
            record(task, trial)
        trained = train(task, together, models)
        for i, (trial, logits) in enumerate(zip(together, trained.logits, strict=True)):
            if i in trained.lost:
                lost.append(f"{trial.workdir}: {trained.lost[i]}" if len(trials) > 1 else trained.lost[i])
            else:
                seconds = round(time.perf_counter() - started, 3)
                conclude(task, trial, logits, trained.timing | {"total_s": seconds}, trained.skipped[i])
    if lost:
        raise UserError("; ".join(lost))


def progress(trial: Trial) -> int:
    return newest_step(trial.workdir / "checkpoints")


def prepare(trials: Sequence[Trial], say: Say) -> Task:
    """What the trials have in common: data, features, groups and the sampler's pool."""
    config = trials[0].config
    dataset = load_data(config)
    sizes = ", ".join(f"{len(getattr(dataset, part))} {part}" for part in ("train", "val", "test"))
    say("; ".join((f"{dataset.name}: {sizes} {dataset.kind}", *dataset.notes)))
    make_mesh(jax.devices(), trials=len(trials), batch_size=config.train.batch_size)
    inputs = network_inputs(config, dataset.inputs)
    regrouping, clusters, found = make_groups(config, dataset, say)
    say(describe_groups(regrouping, dataset))
    rows, labels, synthetic = dataset.train, regrouping.pseudo_labels, None
    if config.sampler == "deepsmote":
        synthetic = make_synthetic(config, dataset, labels)
        say(f"DeepSMOTE: {len(synthetic.labels)} synthetic images")
        rows = np.concatenate([rows, len(inputs) + np.arange(len(synthetic.labels), dtype=rows.dtype)])
        inputs = np.concatenate([dataset.inputs, synthetic.images])
        labels = np.concatenate([labels, synthetic.labels])
    pool = SAMPLERS[config.sampler](regrouping.parent[labels], clusters, config.data.seed)
    return Task(dataset, inputs, rows, labels, pool, regrouping, clusters, found, synthetic)


def make_groups(config: Config, dataset: data.Dataset, say: Say) -> tuple[Regrouping, np.ndarray, np.ndarray | None]:
    """The label map that is trained on, the clusters [N_train] that a cluster-stratified sampler draws from, and the
    features [N_train, D] that they were found in, if any."""
    labels = dataset.labels[dataset.train]
    by_sampler = config.sampler == "rusc"
    clustering = "kmeans" if by_sampler else config.regroup.clustering
    found = None
    if clustering in BY_FEATURES:
        encoder = make_encoder(config, dataset.kind, say)
        # Of all rows, so that every split of a data set finds them in the cache.
        found = features(encoder, dataset.inputs, dataset.fingerprint)[dataset.train]
    how: dict[str, Any] = {name: config.regroup[name] for name in ("rule", "threshold", "seed", "n_init", "min_size")}
    how["clustering"] = clustering

    def compute() -> dict[str, np.ndarray]:
        try:
            made = regroup(found, labels, len(dataset.class_names), **how)
        except ValueError as error:
            raise UserError(f"config.regroup: {error}") from error
        return {"pseudo_labels": made.pseudo_labels, "parent": made.parent}

    if found is None or jax.process_count() > 1:  # processes cluster together: none may find what another computes
        grouping = Regrouping(**compute())
    else:
        key = digest("groups-v1", found, labels, json.dumps(how, sort_keys=True))
        grouping = Regrouping(**cached_arrays(cache_dir() / "groups" / f"{key}.npz", compute))
    trained_on = Regrouping.identity(labels, len(dataset.class_names)) if by_sampler else grouping
    return trained_on, grouping.pseudo_labels, found


def make_synthetic(config: Config, dataset: data.Dataset, labels: np.ndarray) -> Synthetic:
    """What balances the training rows' (pseudo-)labels `labels` [N_train]; made once for a split and settings."""
    how = {**config.deepsmote, "seed": config.data.seed}
    dtype = compute_dtype(config, jax.default_backend())
    named = json.dumps({**how, "dtype": dtype.name}, sort_keys=True)
    key = digest("deepsmote-v1", dataset.fingerprint, dataset.train, labels, named)

    def compute() -> dict[str, np.ndarray]:
        return deepsmote(dataset.inputs[dataset.train], labels, dtype=dtype, **how)._asdict()

    return Synthetic(**cached_arrays(cache_dir() / "deepsmote" / f"{key}.npz", compute))


def record(task: Task, trial: Trial) -> None:
    """Write what a trial begins with."""
    (config, workdir), dataset, regrouping = trial, task.dataset, task.regrouping
    if not is_first_process():
        return
    write_json(workdir / "config.json", json.loads(config.to_json()))
    weights = {"weights": bert_checkpoint(config).fingerprint(*FILES)} if config.model.name == "bert" else {}
    made = {"synthetic": digest(*task.synthetic.images)} if task.synthetic else {}
    provenance.write(
        workdir / "provenance.json",
        config,
        data=dataset.fingerprint,
        regrouping=digest(task.clusters),
        **weights,
        **made,
    )
    write_npz(
        workdir / "split.npz",
        **{part: getattr(dataset, part) for part in ("train", "val", "test")},
        seed=np.array(config.data.seed),
    )
    write_npz(
        workdir / "regrouping.npz",
        rows=dataset.train,
        pseudo_labels=regrouping.pseudo_labels,
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
    )
    manifest.write(workdir, BEGUN)
    if regrouping.num_pseudo_classes > regrouping.num_classes and not (workdir / "groups" / "sizes.png").exists():
        groups = workdir / "groups"
        draw_groups(groups, dataset.inputs, dataset.train, regrouping, task.features, dataset.class_names)
    if task.synthetic:
        shown = dataset.inputs[dataset.train[task.synthetic.shown]]
        draw_synthetic(workdir / "synthetic", shown, regrouping, task.synthetic, dataset.class_names)


def conclude(task: Task, trial: Trial, logits: dict[str, np.ndarray], timing: dict, skipped: int) -> None:
    """Write what a trial has found: its predictions, and the result that they amount to."""
    (config, workdir), dataset, regrouping = trial, task.dataset, task.regrouping
    if not is_first_process():
        return
    write_npz(
        workdir / "predictions.npz",
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
        **{f"{part}_logits": logits[part] for part in logits},
        **{f"{part}_labels": dataset.labels[getattr(dataset, part)] for part in logits},
        **{f"{part}_ids": dataset.ids[getattr(dataset, part)] for part in logits},
    )
    by_aggregation = {
        how: {part: score(logits[part], part, how, dataset, regrouping, config.seed) for part in logits}
        for how in AGGREGATIONS
    }
    chosen = by_aggregation[config.regroup.aggregate]
    result = {
        "dataset": dataset.name,
        "method": config.method,
        "seed": config.seed,
        "num_classes": len(dataset.class_names),
        "num_pseudo_classes": regrouping.num_pseudo_classes,
        "aggregate": config.regroup.aggregate,
        "train_counts": counts_by_name(dataset, dataset.train),
        "val": chosen["val"],
        "test": chosen["test"],
        "test_by_aggregation": {how: parts["test"] for how, parts in by_aggregation.items()},
        "timing": timing,
    } | ({"skipped_steps": skipped} if skipped else {})
    write_json(workdir / "result.json", result)
    manifest.write(workdir, (*BEGUN, "metrics.jsonl", "predictions.npz", "result.json"))


def score(logits, part: str, how: str, dataset, regrouping, seed: int) -> dict:
    labels = dataset.labels[getattr(dataset, part)]
    return metrics.evaluate(regrouping.class_logits(logits, how), labels, dataset.class_names, seed=seed)


def counts_by_name(dataset, rows) -> dict[str, int]:
    counts = np.bincount(dataset.labels[rows], minlength=len(dataset.class_names))
    return dict(zip(dataset.class_names, counts.tolist(), strict=True))


def describe_groups(regrouping: Regrouping, dataset) -> str:
    groups = np.bincount(regrouping.parent, minlength=len(dataset.class_names))
    named = zip(counts_by_name(dataset, dataset.train).items(), groups, strict=True)
    text = ", ".join(f"{name} {n}" + (f" in {k} groups" if k > 1 else "") for (name, n), k in named)
    return f"training {dataset.kind}: {text}; pseudo-classes: {regrouping.num_pseudo_classes}"
