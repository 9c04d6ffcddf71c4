"""Run the method: data, features, pseudo-classes, sampling, training, result."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from rgjax import artifacts
from rgjax.config import FROZEN, Config, program_settings, task_settings
from rgjax.data import Dataset, load_data
from rgjax.decision import read_goal
from rgjax.encoders import Encoder, features_of, make_encoder
from rgjax.errors import UserError
from rgjax.losses import loss_of
from rgjax.models.factory import make_model, padded
from rgjax.predict.run import encoder_of_run
from rgjax.regroup import FEATURE_CLUSTERINGS, needs_features
from rgjax.sharding import make_mesh, wait_for_all
from rgjax.storage import manifest
from rgjax.storage.files import newest_step
from rgjax.storage.memory import keeping, kept
from rgjax.training.inputs import network_inputs, resolve_images
from rgjax.training.resampling import make_regrouping, resample, settings_to_blame
from rgjax.training.setup import make_schedule, require_trainable
from rgjax.training.task import Task, clustering_of, how_to_regroup
from rgjax.training.trackers import require_trackers
from rgjax.training.trainer import Outcome, Trial, train

_log = logging.getLogger(__name__)


def run(config: Config, workdir: Path) -> dict:
    """Run or resume an experiment; return its result. A finished one is only read."""
    return run_population([Trial(config, workdir)])[0]


def run_population(trials: Sequence[Trial]) -> list[dict]:
    """Run experiments with the same `config.program_settings` as one program.

    Each workdir gets the files that its experiment alone would write. Raises UserError for bad input, and for trials
    that diverged, after the others have ended.
    """
    shared = program_settings(trials[0].config)
    if any(program_settings(trial.config) != shared for trial in trials):
        raise ValueError("trials of a population differ in settings that are not traced")
    if unfinished := [trial for trial in trials if not manifest.finished(trial.workdir)]:
        for trial in unfinished:
            artifacts.set_damaged_aside(trial.workdir)
        complete(unfinished)
        wait_for_all("results")
    return [artifacts.read_result(trial.workdir) for trial in trials]


def complete(trials: Sequence[Trial]) -> None:
    """Train the trials from the data to a result in each workdir."""
    started, config = time.perf_counter(), trials[0].config
    for trial in trials:
        require_trackers(trial.config.trackers)
    make_mesh(jax.devices(), trials=len(trials), batch_size=config.train.batch_size)  # fail now, not after minutes
    ready, tasks, errors = prepare_all(trials)
    for group in in_programs(tasks, ready):
        members = [ready[i] for i in group]
        outcomes, timing = train_together([tasks[i] for i in group], members)
        timing["total_s"] = round(time.perf_counter() - started, 3)
        for i, outcome in zip(group, outcomes, strict=True):
            if outcome.error:
                errors[ready[i].workdir] = outcome.error
            else:
                artifacts.write_result(tasks[i], ready[i], outcome, timing)
    if len(errors) == len(trials) and len(set(errors.values())) == 1:
        raise UserError(*set(errors.values()))
    if errors:
        raise UserError("; ".join(f"{workdir}: {error}" for workdir, error in errors.items()))


def train_together(tasks: Sequence[Task], trials: Sequence[Trial]) -> tuple[list[Outcome], dict]:
    """Train trials that share a program; see `train`."""
    models = [
        make_model(
            trial.config.model,
            task.regrouping.num_pseudo_classes,
            head=loss_of(trial.config.loss).head,
            seed=trial.config.seed,
            standardization=task.standardization,
            image_size=task.image_size,
        )
        for task, trial in zip(tasks, trials, strict=True)
    ]
    for task, trial in zip(tasks, trials, strict=True):
        artifacts.write_start(task, trial)  # all input is valid by now: the workdirs can become those of these runs
    mesh = make_mesh(jax.devices(), trials=len(trials), batch_size=trials[0].config.train.batch_size)
    return train(tasks, trials, models, mesh)


def in_programs(tasks: Sequence[Task], trials: Sequence[Trial]) -> list[list[int]]:
    """The numbers of the trials that share a program, in groups.

    They have the same inputs, output width and schedule, and resume from the same step.
    """
    groups: dict[tuple, list[int]] = {}
    for i, (task, (config, workdir, _)) in enumerate(zip(tasks, trials, strict=True)):
        schedule = make_schedule(config, task.examples_per_epoch(config))
        width = padded(task.regrouping.num_pseudo_classes)
        step = newest_step(workdir / "checkpoints")
        key = id(task.inputs), width, replace(schedule, warmup=0, drw_start=None), step  # those two are traced
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def prepare_all(trials: Sequence[Trial]) -> tuple[list[Trial], list[Task], dict[Path, str]]:
    """The task of each trial; trials with equal settings of it share one.

    Returns the trials with a task, their tasks, and by workdir the errors of the others, which do not hold them up.
    """
    prepared: dict[str, Task | UserError] = {}
    ready, tasks, errors = [], [], {}
    with keeping():
        for trial in trials:
            key = json.dumps(task_settings(trial.config))
            if key not in prepared:
                try:
                    prepared[key] = prepare(trial.config, artifacts.recorded_choices(trial.workdir))
                except UserError as error:
                    prepared[key] = error
            task = prepared[key]
            if isinstance(task, UserError):
                errors[trial.workdir] = str(task)
            else:
                ready.append(trial)
                tasks.append(task)
    return ready, tasks, errors


def prepare(config: Config, recorded: Mapping[str, Any] = MappingProxyType({})) -> Task:
    """Prepare the data, features, pseudo-classes and sampling of all trials.

    `recorded` is what `auto` meant when a run began that is resumed, and its encoder.
    """
    config, preprocessing = resolve_images(config, recorded)
    dataset = load_data(config.data)
    require_trainable(config, dataset)
    goal = read_goal(**config.decision, class_names=dataset.class_names)
    config, dataset, inputs = network_inputs(config, dataset, recorded.get("max_length"))
    _log.info(dataset.summary)
    encoder = encoder_of(config, dataset, recorded.get("encoder"))
    features, clustered = encode(encoder, dataset), None
    if features is not None:
        inputs = features if config.model.name in FROZEN else inputs
        clustered = features[dataset.train] if clustering_of(config) in (*FEATURE_CLUSTERINGS, "given") else None
    clusters = make_regrouping(config, dataset, clustered)
    notes = artifacts.notes_on_groups(clusters, dataset, config.regroup, clustering_of(config))
    for note in notes:
        _log.info(note)
    dataset = replace(dataset, notes=(*dataset.notes, *notes))
    task = resample(config, dataset, inputs, clustered, clusters)
    task = replace(task, preprocessing=preprocessing, goal=goal)
    if encoder and features is not None:
        task = replace(task, encoder=encoder.record(features))
    _log.info(artifacts.describe_groups(task.regrouping, dataset))
    return task


def encoder_of(config: Config, dataset: Dataset, began: Mapping[str, Any] | None) -> Encoder | None:
    """The encoder of a run; None if nothing reads features.

    `began` is what the run recorded of its encoder when it began, if it is resumed.
    """
    labels, how = dataset.labels[dataset.train], how_to_regroup(config, dataset)
    with settings_to_blame():
        clustered = needs_features(labels, len(dataset.class_names), **how)
    if not clustered and config.model.name not in FROZEN:
        return None
    options = {"max_length": config.data.max_length, "encoder_of_run": encoder_of_run, "began": began}
    settings = config.encoder.to_json(), config.data.max_length, dataset.kind, began
    return kept("encoder", settings, lambda: make_encoder(config.encoder, dataset.kind, **options))


def encode(encoder: Encoder | None, dataset: Dataset) -> np.ndarray | None:
    """Features [N, D] of all examples; None without an encoder."""
    if encoder is None:
        return None
    return kept("features", (encoder.fingerprint, dataset.fingerprint), lambda: features_of(encoder, dataset))
