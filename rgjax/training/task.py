"""What trials are trained on: examples, labels and the sampler's pool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rgjax.config import AUTO, Config
from rgjax.data import Dataset
from rgjax.decision import Goal
from rgjax.errors import UserError
from rgjax.losses import ClassStats, class_stats
from rgjax.models.frozen import Standardization
from rgjax.models.preprocessing import Preprocessing
from rgjax.models.tokenizer import Tokens
from rgjax.regroup import Regrouping
from rgjax.sampling import SAMPLERS, Synthetic, SyntheticFeatures
from rgjax.sampling.samplers import cycled


@dataclass(frozen=True)
class Task:
    """Training examples, their labels, the sampler's pool, and the data set.

    Attributes:
        dataset: for evaluation.
        inputs: its inputs as the network reads them: images, tokens or features [M, D]; synthetic ones are appended.
        indices: the training examples [N] in `inputs`.
        labels: their (pseudo-)labels [N].
        pool: what the sampler draws from [P], positions in 0..N-1.
        regrouping: the label map of the data set's training split.
        clusters: the clusters [N_train] of that split.
        features: the features [N_train, D] that were clustered, if any.
        synthetic: the synthetic images or features, if any.
        max_length: tokens at which sentences are cut; None for images.
        preprocessing: how a pretrained network of images sees them; None for other networks.
        encoder: name, weights and width of the encoder, if features were computed.
        goal: of the decisions that are made on validation.
    """

    dataset: Dataset
    inputs: np.ndarray | Tokens
    indices: np.ndarray
    labels: np.ndarray
    pool: np.ndarray
    regrouping: Regrouping
    clusters: np.ndarray
    features: np.ndarray | None = None
    synthetic: Synthetic | SyntheticFeatures | None = None
    max_length: int | None = None
    preprocessing: Preprocessing | None = None
    encoder: Mapping[str, Any] | None = None
    goal: Goal = field(default_factory=Goal)

    @property
    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.indices, self.labels, self.pool

    @property
    def counts(self) -> np.ndarray:
        """Examples of each pseudo-class [K] in the pool, for weights, priors and margins."""
        return np.bincount(self.labels[self.pool], minlength=self.regrouping.num_pseudo_classes)

    def class_stats(self, config: Config) -> ClassStats:
        """What the loss of a config knows of the classes; `config` is its section `loss`."""
        return class_stats(config, self.counts, self.regrouping.parent)

    @property
    def standardization(self) -> Standardization | None:
        """Of the training split's features, if the network reads features."""
        if kind_of(self.inputs) != "features":
            return None
        return Standardization.of(np.asarray(self.inputs)[self.dataset.train])

    @property
    def choices(self) -> dict[str, Any]:
        """What `auto` meant in the section `data`, and the encoder: a run records it."""
        encoder = {"encoder": dict(self.encoder)} if self.encoder else {}
        if self.max_length is not None:
            return {"max_length": self.max_length, **encoder}
        seen = self.preprocessing
        return {"image_size": seen.size, "interpolation": seen.interpolation.lower(), **encoder} if seen else encoder

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the images that a pretrained network reads."""
        return self.preprocessing.size if self.preprocessing else None

    def ids(self, indices: np.ndarray) -> list[str]:
        """The names of examples of `inputs`."""
        real = len(self.dataset.ids)
        return [self.dataset.ids[i].item() if i < real else f"synthetic example {i - real}" for i in indices]

    def examples_per_epoch(self, config: Config) -> int:
        return len(self.pool) if config.train.epoch_size == "sampler" else len(self.dataset.train)


def kind_of(inputs: np.ndarray | Tokens) -> str:
    """What the network reads: "images", "sentences" or "features"."""
    if isinstance(inputs, Tokens):
        return "sentences"
    return "features" if inputs.ndim == 2 else "images"


def stacked(tasks: Sequence[Task], draws: int) -> tuple[np.ndarray, ...]:
    """The examples of T tasks with the same inputs: indices, labels, pools, sizes.

    They are [T, N], [T, N], [T, P] and [T], as in TrainData: the indices and labels are padded to a common length, and
    the pools are cycled for epochs of up to `draws` examples.
    """

    def stack(rows):
        length = max(map(len, rows))
        return np.stack([np.resize(row, length) for row in rows])

    return (
        stack([task.indices for task in tasks]),
        stack([task.labels for task in tasks]),
        stack([cycled(task.pool, draws) for task in tasks]),
        np.array([len(task.pool) for task in tasks], np.int32),
    )


def clustering_of(config: Config) -> str:
    """The clustering of the regrouping, or of a sampler that draws from clusters."""
    return "kmeans" if config.sampler == "rusc" else config.regroup.clustering


def least_group(config: Config) -> int | None:
    """`regroup.min_size` as `regroup` takes it; `config` is the section `regroup`."""
    return None if config.min_size == AUTO else config.min_size


def how_to_regroup(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The arguments of `regroup` besides features and labels.

    Raises UserError if the clustering is "given" and the data have no subclasses.
    """
    how = {name: config.regroup[name] for name in ("rule", "threshold", "seed", "n_init")}
    how |= {"clustering": clustering_of(config), "min_size": least_group(config.regroup)}
    if how["clustering"] != "given":
        return how
    if dataset.subclasses is None:
        raise UserError(
            "config.regroup.clustering=given: the data have no subclasses; add a column 'subclass' (or map one by "
            "--config.data.columns=subclass:COLUMN), put images into CLASS/SUBCLASS/, or take one class against the "
            "rest by --config.data.positive=CLASS"
        )
    return how | {"subclasses": dataset.subclasses[dataset.train]}


def make_task(
    config: Config,
    dataset: Dataset,
    inputs: np.ndarray | Tokens,
    clusters: Regrouping,
    *,
    features: np.ndarray | None = None,
    synthetic: Synthetic | SyntheticFeatures | None = None,
) -> Task:
    """The task of a config, from its data and its clusters.

    Args:
        config: names the sampler and its seed; its `data.max_length` is a number.
        dataset: with its splits.
        inputs: as the network reads them; synthetic ones are appended after the real ones.
        clusters: the regrouping by `clustering_of(config)`.
        features: what was clustered, if any.
        synthetic: the synthetic ones among `inputs`, if any.
    """
    indices, labels = dataset.train, dataset.labels[dataset.train]
    # A sampler that draws evenly from clusters trains on the classes themselves.
    regrouping = Regrouping.identity(labels, len(dataset.class_names)) if config.sampler == "rusc" else clusters
    labels = regrouping.pseudo_labels
    if synthetic:
        count = len(synthetic.labels)
        indices = np.concatenate([indices, len(inputs) - count + np.arange(count, dtype=indices.dtype)])
        labels = np.concatenate([labels, synthetic.labels])
    pool = SAMPLERS[config.sampler](regrouping.parent[labels], clusters.pseudo_labels, config.data.seed)
    max_length = config.data.max_length if dataset.kind == "sentences" else None
    clustered = (regrouping, clusters.pseudo_labels, features)
    return Task(dataset, inputs, indices, labels, pool, *clustered, synthetic, max_length)
