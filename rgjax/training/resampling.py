"""The pseudo-classes and synthetic examples of a task, cached by content."""

import contextlib
import json
import logging
from collections.abc import Iterator

import jax
import numpy as np

from rgjax.config import FROZEN, Config
from rgjax.data import Dataset
from rgjax.errors import UserError
from rgjax.models.factory import compute_dtype
from rgjax.regroup import Regrouping, groups_to_make, regroup
from rgjax.sampling import DeepSmoteSettings, Synthetic, deepsmote, feature_smote
from rgjax.storage.files import cache_dir, cached_arrays, digest
from rgjax.training.task import Task, how_to_regroup, make_task

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def settings_to_blame() -> Iterator[None]:
    """Raise what `regroup` refuses as a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"config.regroup: {error}") from error


def make_regrouping(config: Config, dataset: Dataset, features: np.ndarray | None) -> Regrouping:
    """Split classes into pseudo-classes; clusterings of features are cached."""
    labels = dataset.labels[dataset.train]
    how = how_to_regroup(config, dataset)

    def compute() -> dict[str, np.ndarray]:
        with settings_to_blame():
            regrouping = regroup(features, labels, len(dataset.class_names), **how)
        arrays = {"pseudo_labels": regrouping.pseudo_labels, "parent": regrouping.parent}
        return arrays | ({"names": np.array(regrouping.names)} if regrouping.names else {})

    if features is None or jax.process_count() > 1:  # processes cluster together, so none may read the cache alone
        arrays = compute()
    else:
        # Rules and thresholds that ask for the same groups have the same key.
        settings = {name: value for name, value in how.items() if name not in ("subclasses", "rule", "threshold")}
        with settings_to_blame():
            groups = groups_to_make(labels, len(dataset.class_names), **how)
        subclasses = map(str, how.get("subclasses", ()))
        key = digest("groups-v3", features, labels, groups, json.dumps(settings, sort_keys=True), *subclasses)
        arrays = cached_arrays(cache_dir() / "groups" / f"{key}.npz", compute)
    names = tuple(arrays["names"].tolist()) if "names" in arrays else ()
    return Regrouping(arrays["pseudo_labels"], arrays["parent"], names=names)


def resample(config: Config, dataset: Dataset, inputs, features: np.ndarray | None, clusters: Regrouping) -> Task:
    """Make the training task: pseudo-labels, synthetic examples and sampling pool."""
    synthetic = None
    if config.sampler == "deepsmote" and config.model.name in FROZEN:
        settings = {"neighbors": config.deepsmote.neighbours, "seed": config.data.seed}
        synthetic = feature_smote(inputs[dataset.train], clusters.pseudo_labels, **settings)
        _log.info("SMOTE on features: %d synthetic examples", len(synthetic.labels))
    elif config.sampler == "deepsmote":
        synthetic = synthesize(config, dataset, clusters.pseudo_labels)
    if synthetic:
        inputs = np.concatenate([inputs, synthetic.inputs])
    return make_task(config, dataset, inputs, clusters, features=features, synthetic=synthetic)


def synthesize(config: Config, dataset: Dataset, labels: np.ndarray) -> Synthetic:
    """DeepSMOTE's images that balance the labels [N_train], cached by content."""
    settings = {**config.deepsmote, "seed": config.data.seed}
    dtype = compute_dtype(config.model, jax.default_backend())
    described = json.dumps({**settings, "dtype": dtype.name}, sort_keys=True)
    key = digest("deepsmote-v1", dataset.fingerprint, dataset.train, labels, described)
    settings["neighbors"] = settings.pop("neighbours")

    def compute() -> dict[str, np.ndarray]:
        return deepsmote(dataset.inputs[dataset.train], labels, DeepSmoteSettings(**settings), dtype=dtype)._asdict()

    synthetic = Synthetic(**cached_arrays(cache_dir() / "deepsmote" / f"{key}.npz", compute))
    _log.info("DeepSMOTE: %d synthetic images", len(synthetic.labels))
    return synthetic
