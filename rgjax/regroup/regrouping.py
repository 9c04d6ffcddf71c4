"""Split large classes into pseudo-classes, and map logits back to the classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int, Integer

from rgjax.regroup.aggregation import class_logits
from rgjax.regroup.balanced import balanced_kmeans
from rgjax.regroup.kmeans import KMeansSettings, kmeans
from rgjax.regroup.spectral import normalized_cut

RULES = ("ratio", "target")
# Each maps features [N, D] and a number of clusters, with `settings` and `min_size`, to labels [N].
FEATURE_CLUSTERINGS: dict[str, Callable[..., np.ndarray]] = {
    "kmeans": lambda x, k, settings, min_size: kmeans(x, k, settings).labels,
    "balanced": lambda x, k, settings, min_size: balanced_kmeans(x, k, settings, min_size=min_size).labels,
    "spectral": lambda x, k, settings, min_size: normalized_cut(x, k, settings),
}
CLUSTERINGS = ("none", *FEATURE_CLUSTERINGS, "random")


@dataclass(frozen=True)
class Regrouping:
    """Pseudo-labels of N training examples, and the class of each pseudo-class."""

    pseudo_labels: Int[np.ndarray, " N"]
    parent: Int[np.ndarray, " K"]

    @classmethod
    def identity(cls, labels: Integer[np.ndarray, " N"], num_classes: int) -> "Regrouping":
        """Every class is its only pseudo-class."""
        return cls(labels.astype(np.int32), np.arange(num_classes, dtype=np.int32))

    @property
    def num_pseudo_classes(self) -> int:
        return len(self.parent)

    @property
    def num_classes(self) -> int:
        return int(self.parent.max()) + 1

    @property
    def counts(self) -> Int[np.ndarray, " K"]:
        """Training examples of each pseudo-class."""
        return np.bincount(self.pseudo_labels, minlength=len(self.parent))

    @property
    def class_counts(self) -> Int[np.ndarray, " K"]:
        """Training examples of the class of each pseudo-class."""
        return np.bincount(self.parent[self.pseudo_labels])[self.parent]

    def class_logits(self, logits: Any, how: str = "max") -> Float[np.ndarray, "B C"]:
        """Class logits in float64 of pseudo-class logits [B, K]; `how` as in `aggregate`."""
        return class_logits(logits, self.parent, how)


@dataclass(frozen=True)
class RegroupSettings:
    """Settings of `regroup`.

    Attributes:
        rule: the number of pseudo-classes of a class of n_c examples. "ratio": n_c / n_min where n_c > `threshold`,
            with n_min examples in the smallest class. "target": n_c / `threshold`. Rounded half up, at least 1.
        threshold: in examples.
        clustering: how a class is split: "kmeans", "balanced" (K-means with clusters of equal size), "spectral"
            (normalized cut), "random", or "none" for classes as they are.
        seed: of the clustering.
        n_init: restarts of K-means.
        min_size: "balanced": least size of a cluster in place of equal sizes; 0: equal sizes.

    Raises:
        ValueError: for a value that is not valid.
    """

    rule: str = "ratio"
    threshold: int = 0
    clustering: str = "kmeans"
    seed: int = 0
    n_init: int = 10
    min_size: int = 0

    def __post_init__(self):
        if self.rule not in RULES or self.clustering not in CLUSTERINGS:
            raise ValueError(f"rule={self.rule!r}, clustering={self.clustering!r}; valid: {RULES}, {CLUSTERINGS}")
        if self.threshold < (self.rule == "target"):
            limit = "above" if self.rule == "target" else "at least"
            raise ValueError(f"threshold={self.threshold} examples; it must be {limit} 0")
        if self.min_size < 0 or self.n_init < 1:
            raise ValueError(f"min_size={self.min_size}, n_init={self.n_init}; they must be at least 0 and 1")


def regroup(features: Any, labels: Any, num_classes: int | None = None, **settings: Any) -> Regrouping:
    """Split each class into pseudo-classes by a clustering of its features.

    The number of clusters depends on the size of the class; clusters that stay empty are dropped. In a multi-process
    run, all processes get the pseudo-classes of the first one. It needs NumPy alone, whatever trains the network:

    >>> import numpy as np
    >>> from rgjax.regroup import regroup
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], [90, 10])
    >>> regrouping = regroup(rng.normal(size=(100, 4)), labels, rule="ratio", clustering="kmeans")
    >>> regrouping.parent  # the network needs an output for each pseudo-class, ...
    array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], dtype=int32)
    >>> targets = regrouping.pseudo_labels  # ... is trained on these targets [N], ...
    >>> logits = rng.normal(size=(5, regrouping.num_pseudo_classes))  # ... and computes such logits,
    >>> regrouping.class_logits(logits).shape  # which are aggregated to logits of the classes
    (5, 2)

    Args:
        features: finite numbers [N, D]; None for the clusterings "random" and "none".
        labels: classes [N], integers from 0 to C-1.
        num_classes: C; None: one more than the largest label.
        **settings: the fields of `RegroupSettings`.

    Raises:
        ValueError: for arrays that do not fit together, a class without examples, features that are not finite,
            settings that are not valid, and a `min_size` that a class cannot fill.
    """
    options = RegroupSettings(**settings)
    labels, num_classes = _checked_labels(labels, num_classes)
    if options.clustering == "none":
        return Regrouping.identity(labels, num_classes)
    if options.clustering in FEATURE_CLUSTERINGS:
        features = _checked_features(features, labels)
    counts = np.bincount(labels, minlength=num_classes)
    groups = cluster_counts(counts, options.rule, options.threshold)
    kmeans_settings = KMeansSettings(options.seed, options.n_init, pad_to=_shared_shape(counts, groups))

    pseudo_labels, parent = np.empty(len(labels), np.int32), []
    for c, k in enumerate(groups):
        indices = np.flatnonzero(labels == c)
        if k == 1:
            clusters = np.zeros(len(indices), int)
        elif options.clustering == "random":
            clusters = np.random.default_rng((options.seed, c)).permutation(np.arange(len(indices)) % k)
        else:
            clusters = _cluster(features[indices], int(k), options, kmeans_settings)
        used, numbers = np.unique(clusters, return_inverse=True)
        pseudo_labels[indices] = len(parent) + numbers
        parent += [c] * len(used)
    return Regrouping(pseudo_labels, np.array(parent, np.int32))


def cluster_counts(counts: Integer[np.ndarray, " C"], rule: str, threshold: int) -> Int[np.ndarray, " C"]:
    """Pseudo-classes of each class with `counts` examples, rounded half up.

    "ratio": n_c / n_min where n_c > threshold, else 1. "target": n_c / threshold, at least 1.
    """
    groups = np.floor(counts / (counts.min() if rule == "ratio" else threshold) + 0.5).astype(int)
    if rule == "ratio":
        groups = np.where(counts > threshold, groups, 1)
    return np.clip(groups, 1, counts)


def _cluster(features: np.ndarray, k: int, options: RegroupSettings, settings: KMeansSettings) -> np.ndarray:
    """Cluster the examples of one class; all processes get the same clusters."""
    if options.clustering == "balanced" and k * options.min_size > len(features):
        raise ValueError(
            f"min_size={options.min_size}: too large for {len(features)} examples of a class in {k} clusters; "
            f"at most {len(features) // k}"
        )
    clusters = FEATURE_CLUSTERINGS[options.clustering](features, k, settings=settings, min_size=options.min_size)
    # Processes that computed for themselves may have rounded differently.
    return clusters if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(clusters))


def _checked_labels(labels: Any, num_classes: int | None) -> tuple[np.ndarray, int]:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers [N], not {labels.dtype} {list(labels.shape)}")
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must be 0 to {num_classes - 1}, not {labels.min()} to {labels.max()}")
    empty = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(empty):
        raise ValueError(f"class {empty[0]} of {num_classes} has no examples; number the classes 0 to C-1")
    return labels, num_classes


def _checked_features(features: Any, labels: np.ndarray) -> np.ndarray:
    if features is None:
        raise ValueError("features are missing; give features [N, D], or use clustering='random'")
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(labels) or not features.size:
        raise ValueError(f"features must be [{len(labels)}, D], one row per label, not {list(features.shape)}")
    if features.dtype.kind not in "fiub" or not np.isfinite(features).all():
        raise ValueError("features must be finite numbers; remove NaN, infinity and other types")
    return features


def _shared_shape(counts: np.ndarray, groups: np.ndarray) -> tuple[int, int] | None:
    """The (points, centers) that all classes are padded to; None if no class is split.

    Small sizes are rounded up to powers of two, so that the folds of a cross-validation share one program: it takes
    seconds to compile, and the padding milliseconds.
    """
    split = groups > 1
    if not split.any():
        return None
    points, centers = int(counts[split].max()), int(groups.max())
    if points > 4096:
        return points, centers
    return max(256, 1 << (points - 1).bit_length()), max(8, 1 << (centers - 1).bit_length())
