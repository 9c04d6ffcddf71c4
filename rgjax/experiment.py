"""The method, read from top to bottom: data, features, groups, sampling, training, aggregation, result."""

import json
import logging
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import jax
import numpy as np

from rgjax import artifacts
from rgjax.config import TRACED, Config, identity
from rgjax.data import Dataset, load_data
from rgjax.encoders import encode_cached, make_encoder
from rgjax.errors import UserError
from rgjax.losses import loss_of
from rgjax.models.factory import compute_dtype, make_model, network_inputs
from rgjax.predict.run import encoder_of_run
from rgjax.regroup import FEATURE_CLUSTERINGS, Regrouping, regroup
from rgjax.sampling import SAMPLERS, Synthetic, deepsmote
from rgjax.sharding import make_mesh, wait_for_all
from rgjax.storage import manifest
from rgjax.storage.files import cache_dir, cached_arrays, digest, newest_step
from rgjax.training.setup import require_trainable
from rgjax.training.trackers import require_trackers
from rgjax.training.trainer import Task, Trial, train

_log = logging.getLogger(__name__)


def run(config: Config, workdir: Path) -> dict:
    """Run or resume the experiment that `config` describes; return the content of result.json.

    A finished workdir returns its result at once. Raises UserError for bad input.
    """
    return run_population([Trial(config, workdir)])[0]


def run_population(trials: Sequence[Trial]) -> list[dict]:
    """Run several experiments, which may differ in the settings `config.TRACED` alone, as one program.

    Each leaves in its workdir what it would leave by itself; those interrupted at the same step resume together.

    Raises:
        UserError: for bad input; for a trial that diverged, after the others have ended.
    """
    fixed = [{k: v for k, v in identity(trial.config).items() if k not in TRACED} for trial in trials]
    if any(settings != fixed[0] for settings in fixed):
        raise ValueError("trials of a population differ in settings that are not traced")
    if unfinished := [trial for trial in trials if not manifest.finished(trial.workdir)]:
        for trial in unfinished:
            artifacts.set_damaged_aside(trial.workdir)
        complete(unfinished)
        wait_for_all("results")
    return [artifacts.read_result(trial.workdir) for trial in trials]


def complete(trials: Sequence[Trial]) -> None:
    """From the data to a result in each workdir."""
    started, config = time.perf_counter(), trials[0].config
    for trial in trials:
        require_trackers(trial.config.trackers)
    mesh = make_mesh(jax.devices(), trials=len(trials), batch_size=config.train.batch_size)
    task = prepare(config)

    errors = []
    for _, group in groupby(sorted(trials, key=_step), _step):  # one program trains trials that stand at the same step
        together = list(group)
        models = [_make_model(trial.config, task.regrouping.num_pseudo_classes) for trial in together]
        for trial in together:  # past this point no input is bad: the workdirs become these runs'
            artifacts.write_start(task, trial)
        outcomes, timing = train(task, together, models, mesh)
        timing["total_s"] = round(time.perf_counter() - started, 3)
        for trial, outcome in zip(together, outcomes, strict=True):
            if outcome.error:
                errors.append(f"{trial.workdir}: {outcome.error}" if len(trials) > 1 else outcome.error)
            else:
                artifacts.write_result(task, trial, outcome, timing)
    if errors:
        raise UserError("; ".join(errors))


def prepare(config: Config) -> Task:
    """What all trials of a population share: data, features, groups and the sampler's pool."""
    dataset = load_data(config.data)
    require_trainable(config, dataset)
    _log.info(dataset.summary)
    inputs = network_inputs(config.model, dataset.inputs, config.data.max_length)
    features = encode(config, dataset)
    clusters = make_regrouping(config, dataset, features)
    task = resample(config, dataset, inputs, features, clusters)
    _log.info(artifacts.describe_groups(task.regrouping, dataset))
    return task


def _step(trial: Trial) -> int:
    return newest_step(trial.workdir / "checkpoints")


def _make_model(config: Config, outputs: int):
    return make_model(config.model, outputs, head=loss_of(config.loss).head, seed=config.seed)


def encode(config: Config, dataset: Dataset) -> np.ndarray | None:
    """Features [N_train, D] for the clustering, cached by content; None where it needs none."""
    if clustering_of(config) not in FEATURE_CLUSTERINGS:
        return None
    encoder = make_encoder(
        config.encoder, dataset.kind, max_length=config.data.max_length, encoder_of_run=encoder_of_run
    )
    # Of all examples, so that every split of a data set finds them in the cache.
    return encode_cached(encoder, dataset.inputs, dataset.fingerprint)[dataset.train]


def clustering_of(config: Config) -> str:
    """The clustering of the regrouping, or of the sampler that draws evenly from clusters."""
    return "kmeans" if config.sampler == "rusc" else config.regroup.clustering


def make_regrouping(config: Config, dataset: Dataset, features: np.ndarray | None) -> Regrouping:
    """Split the classes of the training set into clusters; those of features are cached by content."""
    labels = dataset.labels[dataset.train]
    how = {name: config.regroup[name] for name in ("rule", "threshold", "seed", "n_init", "min_size")}
    how["clustering"] = clustering_of(config)

    def compute() -> dict[str, np.ndarray]:
        try:
            regrouping = regroup(features, labels, len(dataset.class_names), **how)
        except ValueError as error:
            raise UserError(f"config.regroup: {error}") from error
        return {"pseudo_labels": regrouping.pseudo_labels, "parent": regrouping.parent}

    if features is None or jax.process_count() > 1:  # processes cluster together: all compute, or none
        return Regrouping(**compute())
    key = digest("groups-v1", features, labels, json.dumps(how, sort_keys=True))
    return Regrouping(**cached_arrays(cache_dir() / "groups" / f"{key}.npz", compute))


def resample(config: Config, dataset: Dataset, inputs, features: np.ndarray | None, clusters: Regrouping) -> Task:
    """What is trained on: the pseudo-labels, synthetic images if any, and the pool that the sampler draws from."""
    labels, synthetic = dataset.labels[dataset.train], None
    # A sampler that draws evenly from clusters trains on the classes themselves.
    regrouping = Regrouping.identity(labels, len(dataset.class_names)) if config.sampler == "rusc" else clusters
    indices, labels = dataset.train, regrouping.pseudo_labels
    if config.sampler == "deepsmote":
        synthetic = synthesize(config, dataset, labels)
        indices = np.concatenate([indices, len(inputs) + np.arange(len(synthetic.labels), dtype=indices.dtype)])
        inputs = np.concatenate([dataset.inputs, synthetic.images])
        labels = np.concatenate([labels, synthetic.labels])
    pool = SAMPLERS[config.sampler](regrouping.parent[labels], clusters.pseudo_labels, config.data.seed)
    return Task(dataset, inputs, indices, labels, pool, regrouping, clusters.pseudo_labels, features, synthetic)


def synthesize(config: Config, dataset: Dataset, labels: np.ndarray) -> Synthetic:
    """DeepSMOTE's images that balance the (pseudo-)labels [N_train], cached by content."""
    how = {**config.deepsmote, "seed": config.data.seed}
    dtype = compute_dtype(config.model, jax.default_backend())
    named = json.dumps({**how, "dtype": dtype.name}, sort_keys=True)
    key = digest("deepsmote-v1", dataset.fingerprint, dataset.train, labels, named)
    how["neighbors"] = how.pop("neighbours")

    def compute() -> dict[str, np.ndarray]:
        return deepsmote(dataset.inputs[dataset.train], labels, dtype=dtype, **how)._asdict()

    synthetic = Synthetic(**cached_arrays(cache_dir() / "deepsmote" / f"{key}.npz", compute))
    _log.info("DeepSMOTE: %d synthetic images", len(synthetic.labels))
    return synthetic
