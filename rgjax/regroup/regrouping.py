"""Split large classes into pseudo-classes, and map logits back to the classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int, Integer, Shaped

from rgjax.errors import first_few
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
CLUSTERINGS = ("none", *FEATURE_CLUSTERINGS, "random", "given")
MIN_SIZE = 8  # examples; README.md has the measurements
_COSTLY = 2**16  # points times centers, from which on padding a small class to them takes longer than compiling
MAX_GROUPS = 1000  # of a class; K-means and networks take time and memory in proportion


@dataclass(frozen=True)
class Regrouping:
    """Pseudo-labels of N training examples, and the class of each pseudo-class.

    `merged` counts the groups that were too small and became part of another. `names` has the subclass that each
    pseudo-class is, "" for one that a clustering made; it is empty if all are.
    """

    pseudo_labels: Int[np.ndarray, " N"]
    parent: Int[np.ndarray, " K"]
    merged: int = 0
    names: tuple[str, ...] = ()

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
            with n_min examples in the smallest class. "target": n_c / max(`threshold`, n_min). Rounded half up, at
            least 1. So no rule splits the smallest class.
        threshold: in examples.
        clustering: how a class is split: "kmeans", "balanced" (K-means with clusters of equal size), "spectral"
            (normalized cut), "random", "given" (each subclass is a group; examples without one are split by K-means,
            into as many groups as the rule gives to a class of their number), or "none" for classes as they are.
        seed: of the clustering.
        n_init: restarts of K-means.
        min_size: least size of a group. A class of n_c examples gets at most n_c / `min_size` groups, and those that
            are smaller are merged into the nearest one, whatever the clustering. 0: no limit, as in the paper; None:
            half of the smallest class, at least `MIN_SIZE`. In both cases, "balanced" has groups of equal size. Given
            groups keep their size.
        max_groups: the most groups of a class. More subclasses are an error.

    Raises:
        ValueError: for a value that is not valid.
    """

    rule: str = "ratio"
    threshold: int = 0
    clustering: str = "kmeans"
    seed: int = 0
    n_init: int = 10
    min_size: int | None = 0
    max_groups: int = MAX_GROUPS

    def cluster_counts(self, counts: Integer[np.ndarray, " C"], smallest: int | None = None) -> Int[np.ndarray, " C"]:
        """Pseudo-classes of each class before small ones are merged."""
        return cluster_counts(counts, self.rule, self.threshold, self.min_size, self.max_groups, smallest)

    def __post_init__(self):
        if self.rule not in RULES or self.clustering not in CLUSTERINGS:
            raise ValueError(f"rule={self.rule!r}, clustering={self.clustering!r}; valid: {RULES}, {CLUSTERINGS}")
        if self.threshold < (self.rule == "target"):
            limit = "above" if self.rule == "target" else "at least"
            raise ValueError(f"threshold={self.threshold} examples; it must be {limit} 0")
        for name, low in (("min_size", 0), ("n_init", 1), ("max_groups", 1)):
            if (value := getattr(self, name)) is not None and value < low:
                raise ValueError(f"{name}={value}: must be at least {low}")


def regroup(
    features: Any, labels: Any, num_classes: int | None = None, *, subclasses: Any = None, **settings: Any
) -> Regrouping:
    """Split each class into pseudo-classes by a clustering of its features.

    The number of clusters depends on the size of the class. Clusters that stay empty are dropped, and those of fewer
    than `min_size` examples are merged into the nearest one of their class. In a multi-process run, all processes get
    the pseudo-classes of the first one. It needs NumPy alone, whatever trains the network:

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
        features: finite numbers [N, D]; None for the clusterings "random" and "none", and for "given" if it needs none.
        labels: classes [N], integers from 0 to C-1.
        num_classes: C; None: one more than the largest label.
        subclasses: for "given", the name of each example's subclass [N], "" or None where it has none.
        **settings: the fields of `RegroupSettings`.

    Raises:
        ValueError: for arrays that do not fit together, a class without examples, features that are not finite,
            and settings that are not valid.
    """
    options = RegroupSettings(**settings)
    labels, num_classes = _checked_labels(labels, num_classes)
    if options.clustering == "none":
        return Regrouping.identity(labels, num_classes)
    given = _checked_subclasses(subclasses, labels, options)
    counts, groups = _to_cluster(labels, given, options)
    if options.clustering in FEATURE_CLUSTERINGS or (options.clustering == "given" and (groups > 1).any()):
        features = _checked_features(features, labels)
    shapes, least = _shapes(counts, groups), least_size(options.min_size, int(np.bincount(labels).min()))

    pseudo_labels, parent, names, merged = np.empty(len(labels), np.int32), [], [], 0
    for c, k in enumerate(groups):
        subclassed, indices = (np.flatnonzero((labels == c) & mask) for mask in (given != "", given == ""))
        if k <= 1:
            clusters = np.zeros(len(indices), int)
        elif options.clustering == "random":
            clusters = np.random.default_rng((options.seed, c)).permutation(np.arange(len(indices)) % k)
        else:
            padded = KMeansSettings(options.seed, options.n_init, pad_to=shapes[c])
            clusters = _cluster(features[indices], int(k), options, padded)
            clusters, fewer = merge_small(features[indices], clusters, least)
            merged += fewer
        for members, groups_of in ((subclassed, given[subclassed]), (indices, clusters)):
            used, numbers = np.unique(groups_of, return_inverse=True)
            pseudo_labels[members] = len(parent) + numbers
            parent += [c] * len(used)
            names += used.tolist() if members is subclassed else [""] * len(used)
    return Regrouping(pseudo_labels, np.array(parent, np.int32), merged, tuple(names) if any(names) else ())


def needs_features(labels: Any, num_classes: int, *, subclasses: Any = None, **settings: Any) -> bool:
    """Whether `regroup` would read features with these arguments.

    With given subclasses, it does where enough examples of a class have none.
    """
    if (clustering := RegroupSettings(**settings).clustering) != "given":
        return clustering in FEATURE_CLUSTERINGS
    return bool((groups_to_make(labels, num_classes, subclasses=subclasses, **settings) > 1).any())


def groups_to_make(labels: Any, num_classes: int, *, subclasses: Any = None, **settings: Any) -> Int[np.ndarray, " C"]:
    """Count the groups of each class that `regroup` would cluster.

    Before small ones are merged, and without those of given subclasses.
    """
    options = RegroupSettings(**settings)
    labels, _ = _checked_labels(labels, num_classes)
    return _to_cluster(labels, _checked_subclasses(subclasses, labels, options), options)[1]


def least_size(min_size: int | None, smallest: int) -> int:
    """The least size of a group, where the smallest class has `smallest` examples.

    None: half of it, at least `MIN_SIZE`. Groups that share the examples of a class evenly are as large as the smallest
    class; so those far below are few, and by its own counts none has more than about twice the smallest class's weight.
    """
    return max(MIN_SIZE, smallest // 2) if min_size is None else min_size


def cluster_counts(
    counts: Integer[np.ndarray, " C"],
    rule: str,
    threshold: int,
    min_size: int | None = 0,
    max_groups: int = MAX_GROUPS,
    smallest: int | None = None,
) -> Int[np.ndarray, " C"]:
    """Pseudo-classes of each class, before small ones are merged; rounded half up.

    "ratio": n_c / n_min where n_c > threshold, else 1. "target": n_c / max(threshold, n_min), at least 1.

    Args:
        counts: examples of each class.
        rule: "ratio" or "target".
        threshold: in examples.
        min_size: a class of n_c examples gets at most n_c / min_size pseudo-classes; None as for `least_size`.
        max_groups: the most pseudo-classes of a class.
        smallest: n_min, if it is not the least of `counts`.
    """
    smallest = int(counts.min()) if smallest is None else smallest
    groups = np.floor(counts / (smallest if rule == "ratio" else max(threshold, smallest)) + 0.5).astype(int)
    if rule == "ratio":
        groups = np.where(counts > threshold, groups, 1)
    return np.clip(groups, 1, np.clip(counts // max(least_size(min_size, smallest), 1), 1, max_groups))


def merge_small(
    x: Shaped[np.ndarray, "N D"], clusters: Int[np.ndarray, " N"], min_size: int
) -> tuple[Int[np.ndarray, " N"], int]:
    """Merge clusters of fewer than `min_size` points into the nearest, by center.

    The smallest comes first, and among equals the one of the lowest number. Returns the clusters, numbered as before,
    and how many were merged.
    """
    numbers, clusters, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if sizes.min() >= min_size:
        return numbers[clusters], 0
    sums = np.zeros((len(numbers), x.shape[1]))
    np.add.at(sums, clusters, x)
    sizes = sizes.astype(float)
    merged = 0
    while merged < len(numbers) - 1 and sizes.min() < min_size:
        smallest = sizes.argmin()
        distances = np.square(sums / sizes[:, None] - sums[smallest] / sizes[smallest]).sum(axis=1)
        nearest = np.where(np.isinf(sizes) | (np.arange(len(sizes)) == smallest), np.inf, distances).argmin()
        sums[nearest] += sums[smallest]
        sizes[nearest] += sizes[smallest]
        sizes[smallest] = np.inf  # it is gone
        clusters[clusters == smallest] = nearest
        merged += 1
    return numbers[clusters], merged


def _cluster(features: np.ndarray, k: int, options: RegroupSettings, settings: KMeansSettings) -> np.ndarray:
    """Cluster the examples of one class; all processes get the same clusters."""
    least = options.min_size or 0
    name = "kmeans" if options.clustering == "given" else options.clustering
    clusters = FEATURE_CLUSTERINGS[name](features, k, settings=settings, min_size=least)
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


def _checked_subclasses(subclasses: Any, labels: np.ndarray, options: RegroupSettings) -> np.ndarray:
    """The subclass of each example [N], "" where it has none."""
    if options.clustering != "given":
        if subclasses is not None:
            raise ValueError(f"subclasses with clustering={options.clustering!r}: use clustering='given'")
        return np.zeros(len(labels), "U1")
    if subclasses is None:
        raise ValueError("clustering='given': no subclasses; call regroup(..., subclasses=names of the N examples)")
    names = np.asarray(subclasses)
    if names.shape != labels.shape:
        raise ValueError(f"subclasses must be [{len(labels)}], one per label, not {list(names.shape)}")
    # None and NaN stand for a missing value.
    names = np.array(["" if name is None or name != name else str(name) for name in names.tolist()])
    for c in np.unique(labels):
        if len(used := np.setdiff1d(names[labels == c], [""])) > options.max_groups:
            raise ValueError(
                f"a class has {len(used)} subclasses ({first_few(used, limit=3)}), more than {options.max_groups}; "
                "join some"
            )
    return names


def _to_cluster(
    labels: np.ndarray, given: np.ndarray, options: RegroupSettings
) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, " C"]]:
    """How many examples of each class have no subclass, and their groups."""
    sizes = np.bincount(labels)
    counts = np.bincount(labels[given == ""], minlength=len(sizes))
    return counts, options.cluster_counts(counts, int(sizes.min()))


def _checked_features(features: Any, labels: np.ndarray) -> np.ndarray:
    if features is None:
        raise ValueError("features are missing; give features [N, D], or use clustering='random'")
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(labels) or not features.size:
        raise ValueError(f"features must be [{len(labels)}, D], one row per label, not {list(features.shape)}")
    if features.dtype.kind not in "fiub" or not np.isfinite(features).all():
        raise ValueError("features must be finite numbers; remove NaN, infinity and other types")
    return features


def _shapes(counts: np.ndarray, groups: np.ndarray) -> dict[int, tuple[int, int]]:
    """The (points, centers) that each class to be split is padded to.

    A program takes seconds to compile, so classes share a shape; but those far smaller than the largest have a second
    one, where K-means on so much padding would take longer.
    """
    work, split = counts * groups, groups > 1
    largest = work.max(where=split, initial=0)
    small = split & (work < largest / 4) & (largest > _COSTLY)
    shapes = {}
    for members in map(np.flatnonzero, (split & ~small, small)):
        if len(members):
            shapes |= dict.fromkeys(
                members.tolist(), _rounded_shape(int(counts[members].max()), int(groups[members].max()))
            )
    return shapes


def _rounded_shape(points: int, centers: int) -> tuple[int, int]:
    """A shape that folds, seeds and thresholds share.

    Powers of two, and for many points the next of eight steps between them, as padding takes time by then.
    """
    if points <= 4096:
        return max(256, 1 << (points - 1).bit_length()), max(8, 1 << (centers - 1).bit_length())

    def up(size: int) -> int:
        step = max(8, 2 ** size.bit_length() // 16)
        return -(-size // step) * step

    return up(points), up(centers)
