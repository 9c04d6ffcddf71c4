"""Regrouping: large classes split into pseudo-classes, and pseudo-class logits brought back to classes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.regroup.kmeans import kmeans

RULES = ("ratio", "target")
CLUSTERINGS = ("none", "kmeans", "random")
AGGREGATIONS = ("max", "sum")


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

    def class_logits(self, logits: np.ndarray, how: str) -> np.ndarray:
        """Pseudo-class logits [B, K] as class logits [B, C]; `how` as in `aggregate`."""
        return np.asarray(aggregate(logits, self.parent, self.num_classes, how))


def cluster_counts(counts: np.ndarray, rule: str, threshold: int) -> np.ndarray:
    """Pseudo-classes [C] of classes with `counts` rows, rounded half up.

    "ratio": n_c / n_min where n_c > threshold, else 1. "target": n_c / threshold, at least 1.
    """
    wanted = counts / (counts.min() if rule == "ratio" else threshold)
    groups = np.floor(wanted + 0.5).astype(int)
    if rule == "ratio":
        groups = np.where(counts > threshold, groups, 1)
    return np.clip(groups, 1, counts)


def regroup(features, labels, num_classes: int, *, rule, threshold, clustering, seed, n_init=10) -> Regrouping:
    """Split each class by K-means on `features` [N, D], or at random; clusters that stay empty are dropped."""
    if clustering == "none":
        return Regrouping.identity(labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    groups = cluster_counts(counts, rule, threshold)
    split = groups > 1
    pad_to = (int(counts[split].max()), int(groups.max())) if split.any() else None
    pseudo, parent = np.empty(len(labels), np.int32), []
    for c, k in enumerate(groups):
        rows = np.flatnonzero(labels == c)
        if clustering == "random":
            clusters = np.random.default_rng((seed, c)).permutation(np.arange(len(rows)) % k)
        elif k == 1:
            clusters = np.zeros(len(rows), int)
        else:
            clusters = kmeans(features[rows], int(k), seed=seed, n_init=n_init, pad_to=pad_to).labels
        used, numbers = np.unique(clusters, return_inverse=True)
        pseudo[rows] = len(parent) + numbers
        parent += [c] * len(used)
    return Regrouping(pseudo, np.array(parent, np.int32))


def aggregate(logits: jax.Array | np.ndarray, parent: np.ndarray, num_classes: int, how: str) -> jax.Array:
    """Class logits [B, C]: the largest logit of a class's pseudo-classes, or the log of their summed probabilities
    ("sum": logsumexp, so that the size of the logits does not grow with the number of groups)."""
    rows = jnp.asarray(logits).T
    top = jax.ops.segment_max(rows, parent, num_classes)
    if how == "max":
        return top.T
    return (top + jnp.log(jax.ops.segment_sum(jnp.exp(rows - top[parent]), parent, num_classes))).T
