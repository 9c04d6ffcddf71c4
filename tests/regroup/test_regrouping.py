from functools import partial

import numpy as np
import pytest
from scipy.special import logsumexp

from rgjax.regroup import CLUSTERINGS, Regrouping, aggregate, cluster_counts, regroup

HAM = np.array([4291, 712, 703, 328, 208, 90, 73])


@pytest.mark.parametrize(
    ("rule", "threshold", "expected"),
    [
        ("ratio", 200, [59, 10, 10, 4, 3, 1, 1]),
        ("ratio", 400, [59, 10, 10, 1, 1, 1, 1]),
        ("target", 200, [21, 4, 4, 2, 1, 1, 1]),
        ("target", 300, [14, 2, 2, 1, 1, 1, 1]),
    ],
)
def test_cluster_counts(rule, threshold, expected):
    assert cluster_counts(HAM, rule, threshold).tolist() == expected


@pytest.mark.parametrize("clustering", [name for name in CLUSTERINGS if name != "none"])
def test_every_pseudo_class_has_members_of_its_parent_alone(clustering):
    rng = np.random.default_rng(0)
    labels, features = np.repeat([0, 1], [90, 10]), rng.normal(size=(100, 4)).astype(np.float32)
    grouping = regroup(features, labels, 2, rule="ratio", threshold=0, clustering=clustering, seed=0)
    assert grouping.parent.tolist() == [0] * 9 + [1]
    assert grouping.counts.min() > 0
    np.testing.assert_array_equal(grouping.parent[grouping.pseudo_labels], labels)
    if clustering in ("balanced", "random"):
        assert np.ptp(grouping.counts) <= 1


def test_a_least_size_of_balanced_groups():
    rng = np.random.default_rng(0)
    labels, features = np.repeat([0, 1], [90, 10]), rng.normal(size=(100, 4)).astype(np.float32)
    balanced = partial(regroup, features, labels, 2, rule="ratio", threshold=0, clustering="balanced", seed=0)
    assert 5 <= balanced(min_size=5).counts.min() < 10
    with pytest.raises(ValueError, match=r"min_size=11 is too much for 90 rows of a class in 9 groups: at most 10"):
        balanced(min_size=11)


@pytest.mark.parametrize("clustering", [name for name in CLUSTERINGS if name != "none"])
@pytest.mark.parametrize("kind", ["equal", "zero", "twins", "constant column"])
def test_features_that_tell_little_make_groups_all_the_same(clustering, kind):
    rng = np.random.default_rng(0)
    features = {
        "equal": np.ones((13, 3)),
        "zero": np.zeros((13, 3)),
        "twins": np.repeat(rng.normal(size=(3, 3)), [6, 6, 1], axis=0),  # fewer different points than groups
        "constant column": np.stack([np.ones(13), rng.normal(size=13)], axis=1),
    }[kind].astype(np.float32)
    labels = np.repeat([0, 1], [12, 1])  # a group for each row of one class, and a class of a single row
    grouping = regroup(features, labels, 2, clustering=clustering)
    np.testing.assert_array_equal(grouping.parent[grouping.pseudo_labels], labels)
    assert grouping.counts.min() > 0
    assert (grouping.parent == 1).sum() == 1
    groups = (grouping.parent == 0).sum()
    if clustering == "kmeans":  # equal points are not torn apart
        assert groups == len(np.unique(features[labels == 0], axis=0))
    if clustering in ("balanced", "random"):
        assert groups == 12
    np.testing.assert_array_equal(
        regroup(features, labels, 2, clustering=clustering).pseudo_labels, grouping.pseudo_labels
    )


def test_aggregation():
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * 30
    parent = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(aggregate(logits, parent, 2, "max")[:, 0], logits[:, :3].max(axis=1))
    np.testing.assert_allclose(aggregate(logits, parent, 2, "sum")[:, 0], logsumexp(logits[:, :3], axis=1), rtol=1e-5)
    for how in ("max", "sum"):
        identity = Regrouping.identity(np.arange(4), 4)
        np.testing.assert_array_equal(aggregate(logits, identity.parent, 4, how), logits)


@pytest.mark.parametrize(
    ("features", "labels", "num_classes", "says"),
    [
        (np.zeros((4, 2)), np.array([0, 0, 1]), None, r"features must be \[3, D\], a row for each label, not \[4, 2\]"),
        (np.zeros(3), np.array([0, 0, 1]), None, r"not \[3\]"),
        (np.zeros((3, 0)), np.array([0, 0, 1]), None, r"not \[3, 0\]"),
        (np.full((3, 1), np.nan), np.array([0, 0, 1]), None, "features must be finite numbers"),
        (np.array([["a"], ["b"], ["c"]]), np.array([0, 0, 1]), None, "features must be finite numbers"),
        (None, np.array([0, 0, 1]), None, "clustering needs features"),
        (np.zeros((3, 1)), np.array([0.0, 0.0, 1.0]), None, r"labels must be integers \[N\], not float64 \[3\]"),
        (np.zeros((2, 1)), np.array([[0], [1]]), None, r"labels must be integers \[N\], not int64 \[2, 1\]"),
        (np.zeros((0, 1)), np.array([], int), None, "labels must be integers"),
        (np.zeros((3, 1)), np.array([1, 1, 2]), None, "class 0 of 3 has no rows: number the classes 0 to C-1"),
        (np.zeros((3, 1)), np.array([0, 0, 1]), 3, "class 2 of 3 has no rows"),
        (np.zeros((3, 1)), np.array([0, 0, 2]), 2, "labels must be 0 to 1, not 0 to 2"),
        (np.zeros((3, 1)), np.array([-1, 0, 1]), None, "labels must be 0 to 1, not -1 to 1"),
    ],
)
def test_what_does_not_fit_together_is_named(features, labels, num_classes, says):
    with pytest.raises(ValueError, match=says):
        regroup(features, labels, num_classes)
