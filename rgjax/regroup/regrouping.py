"""Regrouping: large classes split into pseudo-classes, and pseudo-class logits brought back to classes."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from rgjax.regroup.aggregation import class_logits
from rgjax.regroup.balanced.kmeans import balanced_kmeans
from rgjax.regroup.kmeans import kmeans
from rgjax.regroup.spectral import normalized_cut

RULES = ("ratio", "target")
# Labels [N] of features [N, D] in k groups.
FEATURE_CLUSTERINGS: dict[str, Callable[..., np.ndarray]] = {
    "kmeans": lambda x, k, min_size, **how: kmeans(x, k, **how).labels,
    "balanced": lambda x, k, **how: balanced_kmeans(x, k, **how).labels,
    "spectral": lambda x, k, min_size, **how: normalized_cut(x, k, **how),
}
CLUSTERINGS = ("none", *FEATURE_CLUSTERINGS, "random")


@dataclass(frozen=True)
class Regrouping:
    """`pseudo_labels` [N] of the training rows and the `parent` [K] class of each pseudo-class."""

    pseudo_labels: np.ndarray
    parent: np.ndarray

    @classmethod
    def identity(cls, labels: np.ndarray, num_classes: int) -> "Regrouping":
        return cls(labels.astype(np.int32), np.arange(num_classes, dtype=np.int32))

    @property
    def num_pseudo_classes(self) -> int:
        return len(self.parent)

    @property
    def num_classes(self) -> int:
        return int(self.parent.max()) + 1

    @property
    def class_counts(self) -> np.ndarray:
        """Rows [K] of the class that each pseudo-class belongs to."""
        return np.bincount(self.parent[self.pseudo_labels])[self.parent]

    @property
    def counts(self) -> np.ndarray:
        return np.bincount(self.pseudo_labels, minlength=len(self.parent))

    def class_logits(self, logits: np.ndarray, how: str = "max") -> np.ndarray:
        """Class logits [B, C] float64 of pseudo-class logits [B, K]; `how` as in `aggregate`."""
        return class_logits(logits, self.parent, how)


def cluster_counts(counts: np.ndarray, rule: str, threshold: int) -> np.ndarray:
    """Pseudo-classes [C] of classes with `counts` rows, rounded half up.

    "ratio": n_c / n_min where n_c > threshold, else 1. "target": n_c / threshold, at least 1.
    """
    wanted = counts / (counts.min() if rule == "ratio" else threshold)
    groups = np.floor(wanted + 0.5).astype(int)
    if rule == "ratio":
        groups = np.where(counts > threshold, groups, 1)
    return np.clip(groups, 1, counts)


def regroup(
    features,
    labels,
    num_classes: int | None = None,
    *,
    rule: str = "ratio",
    threshold: int = 0,
    clustering: str = "kmeans",
    seed: int = 0,
    n_init: int = 10,
    min_size: int = 0,
) -> Regrouping:
    """Split each class by a clustering of its `features` [N, D], or at random; clusters that stay empty are dropped.

    `labels` [N] are 0 to C-1. The groups are those of the first process in all. Raises ValueError for arrays that do
    not fit together, for a class without rows, for features that are not finite, and where "balanced" groups of
    `min_size` rows are more than a class has. NumPy is all that it needs around it, whatever trains the network:

    >>> import numpy as np
    >>> from rgjax.regroup import regroup
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], [90, 10])
    >>> grouping = regroup(rng.normal(size=(100, 4)), labels)
    >>> grouping.parent  # the network needs an output for each of these groups, ...
    array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], dtype=int32)
    >>> targets = grouping.pseudo_labels  # ... is trained on these targets [N], ...
    >>> logits = rng.normal(size=(5, grouping.num_pseudo_classes))  # ... and gives such logits,
    >>> grouping.class_logits(logits).shape  # of which these are the classes'
    (5, 2)
    """
    labels, num_classes = _checked_labels(labels, num_classes)
    if rule not in RULES or clustering not in CLUSTERINGS:
        raise ValueError(f"rule={rule!r}, clustering={clustering!r}; valid: {RULES}, {CLUSTERINGS}")
    if threshold < (rule == "target"):
        raise ValueError(f"threshold={threshold} rows: it must be {'above' if rule == 'target' else 'at least'} 0")
    if min_size < 0 or n_init < 1:
        raise ValueError(f"min_size={min_size}, n_init={n_init}: they must be at least 0 and 1")
    if clustering == "none":
        return Regrouping.identity(labels, num_classes)
    if clustering in FEATURE_CLUSTERINGS:
        features = _checked_features(features, labels)
    counts = np.bincount(labels, minlength=num_classes)
    groups = cluster_counts(counts, rule, threshold)
    split = groups > 1
    pad_to = _shared_shape(int(counts[split].max()), int(groups.max())) if split.any() else None
    pseudo, parent = np.empty(len(labels), np.int32), []
    for c, k in enumerate(groups):
        rows = np.flatnonzero(labels == c)
        if clustering == "random":
            clusters = np.random.default_rng((seed, c)).permutation(np.arange(len(rows)) % k)
        elif k == 1:
            clusters = np.zeros(len(rows), int)
        else:
            if clustering == "balanced" and k * min_size > len(rows):
                raise ValueError(
                    f"min_size={min_size} is too much for {len(rows)} rows of a class in {k} groups: "
                    f"at most {len(rows) // k}"
                )
            how = {"seed": seed, "n_init": n_init, "min_size": min_size, "pad_to": pad_to}
            clusters = _as_first(FEATURE_CLUSTERINGS[clustering](features[rows], int(k), **how))
        used, numbers = np.unique(clusters, return_inverse=True)
        pseudo[rows] = len(parent) + numbers
        parent += [c] * len(used)
    return Regrouping(pseudo, np.array(parent, np.int32))


def _checked_labels(labels, num_classes: int | None) -> tuple[np.ndarray, int]:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers [N], not {labels.dtype} {list(labels.shape)}")
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must be 0 to {num_classes - 1}, not {labels.min()} to {labels.max()}")
    empty = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(empty):
        raise ValueError(f"class {empty[0]} of {num_classes} has no rows: number the classes 0 to C-1")
    return labels, num_classes


def _checked_features(features, labels: np.ndarray) -> np.ndarray:
    if features is None:
        raise ValueError("clustering needs features [N, D]; clustering='random' does without")
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(labels) or not features.size:
        raise ValueError(f"features must be [{len(labels)}, D], a row for each label, not {list(features.shape)}")
    if features.dtype.kind not in "fiub" or not np.isfinite(features).all():
        raise ValueError("features must be finite numbers: there is NaN, infinity or what is no number")
    return features


def _shared_shape(points: int, centers: int) -> tuple[int, int]:
    """Small sizes rounded up to powers of two, so that the folds of a cross-validation share one program: it takes
    seconds to compile, and the padding milliseconds."""
    if points > 4096:
        return points, centers
    return max(256, 1 << (points - 1).bit_length()), max(8, 1 << (centers - 1).bit_length())


def _as_first(clusters: np.ndarray) -> np.ndarray:
    """What the first process has found: others that computed for themselves may have rounded otherwise."""
    return clusters if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(clusters))
