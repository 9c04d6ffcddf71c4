from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import logsumexp

from rgjax.regroup import (
    AGGREGATIONS,
    CLUSTERINGS,
    Regrouping,
    aggregate,
    cluster_counts,
    least_size,
    needs_features,
    regroup,
)
from rgjax.regroup.regrouping import _rounded_shape, merge_small

BY_RULE = [name for name in CLUSTERINGS if name not in ("none", "given")]
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


@pytest.mark.long
@pytest.mark.parametrize("clustering", BY_RULE)
def test_pseudo_classes_split_their_class(clustering):
    rng = np.random.default_rng(0)
    labels, features = np.repeat([0, 1], [90, 10]), rng.normal(size=(100, 4)).astype(np.float32)
    grouping = regroup(features, labels, 2, rule="ratio", threshold=0, clustering=clustering, seed=0)
    assert grouping.parent.tolist() == [0] * 9 + [1]
    assert grouping.counts.min() > 0
    np.testing.assert_array_equal(grouping.parent[grouping.pseudo_labels], labels)
    if clustering in ("balanced", "random"):
        assert np.ptp(grouping.counts) <= 1


def test_min_size_of_balanced_clusters():
    rng = np.random.default_rng(0)
    labels, features = np.repeat([0, 1], [90, 10]), rng.normal(size=(100, 4)).astype(np.float32)
    balanced = partial(regroup, features, labels, 2, rule="ratio", threshold=0, clustering="balanced", seed=0)
    assert 5 <= balanced(min_size=5).counts.min() < 10
    assert balanced(min_size=11).parent.tolist() == [0] * 8 + [1]  # 90 // 11 groups, where the rule asks for 9
    assert balanced(min_size=11).counts[:8].min() >= 11
    assert np.ptp(balanced(min_size=None).counts) <= 1


@pytest.mark.parametrize("clustering", ["kmeans", "spectral", "balanced", "random"])
@pytest.mark.parametrize("min_size", [2, 8])
def test_no_group_is_smaller_than_min_size(clustering, min_size):
    rng = np.random.default_rng(1)
    labels, features = np.repeat([0, 1], [153, 2]), rng.standard_cauchy(size=(155, 3)).astype(np.float32)
    grouping = regroup(features, labels, clustering=clustering, min_size=min_size, n_init=1)
    counts = grouping.counts[grouping.parent == 0]
    assert min_size <= counts.min() and 1 < len(counts) <= 153 // min_size
    assert len(counts) + grouping.merged <= 153 // min_size
    assert grouping.counts[-1] == 2  # a small class stays whole
    np.testing.assert_array_equal(grouping.parent[grouping.pseudo_labels], labels)
    again = regroup(features, labels, clustering=clustering, min_size=min_size, n_init=1)
    np.testing.assert_array_equal(again.pseudo_labels, grouping.pseudo_labels)


@given(
    arrays.arrays(np.int64, 4, elements=st.integers(1, 10**5)),
    st.sampled_from(["ratio", "target"]),
    st.integers(1, 10**6),
    st.sampled_from([None, 0, 8]),
)
def test_no_rule_splits_the_smallest_class(counts, rule, threshold, min_size):
    groups = cluster_counts(counts, rule, threshold, min_size)
    assert (groups[counts == counts.min()] == 1).all()
    assert (cluster_counts(counts, "target", int(counts.min())) == cluster_counts(counts, "ratio", 0)).all()


def test_the_least_size_follows_the_smallest_class():
    """By default no group of any clustering weighs more than about twice the smallest class."""
    rng = np.random.default_rng(0)
    labels, features = np.repeat([0, 1], [600, 60]), rng.normal(size=(660, 3)).astype(np.float32) ** 3
    for clustering in ("kmeans", "spectral", "random", "balanced"):
        grouping = regroup(features, labels, clustering=clustering, min_size=None, n_init=1)
        assert grouping.counts.min() >= least_size(None, 60) == 30
        assert len(grouping.parent) > 3, clustering
    assert regroup(features, labels, n_init=1).counts.min() < 30
    assert least_size(None, 3) == 8 and least_size(0, 60) == 0


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 9), st.integers(0, 99))
def test_small_clusters_join_the_nearest_by_center(n, k, min_size, seed):
    rng = np.random.default_rng(seed)
    x, clusters = rng.normal(size=(n, 2)), rng.integers(0, k, n)
    expected = [np.flatnonzero(clusters == c) for c in range(k) if (clusters == c).any()]
    before = len(expected)
    while len(expected) > 1 and min(map(len, expected)) < min_size:
        small = min(range(len(expected)), key=lambda i: (len(expected[i]), i))
        centers = [x[members].mean(axis=0) for members in expected]
        distance = [np.inf if i == small else ((c - centers[small]) ** 2).sum() for i, c in enumerate(centers)]
        target = int(np.argmin(distance))
        expected[target] = np.concatenate([expected[target], expected[small]])
        del expected[small]
    merged, count = merge_small(x, clusters, min_size)
    assert count == before - len(expected)
    assert {frozenset(np.flatnonzero(merged == c)) for c in set(merged)} == {frozenset(group) for group in expected}


@pytest.mark.parametrize("rule", ["ratio", "target"])
def test_extreme_ratios_are_bounded(rule):
    counts = np.array([4000, 1])
    assert cluster_counts(counts, rule, 1, max_groups=200).tolist() == [200, 1]
    assert cluster_counts(counts, rule, 1, min_size=8).tolist() == [500, 1]
    assert cluster_counts(counts, rule, 1).tolist() == [1000, 1]
    labels = np.repeat([0, 1], counts)
    assert regroup(None, labels, rule=rule, threshold=1, clustering="random").num_pseudo_classes == 1001
    for change, says in (({"max_groups": 0}, "max_groups=0: must be at least 1"), ({"min_size": -1}, "min_size=-1")):
        with pytest.raises(ValueError, match=says):
            regroup(None, labels, clustering="random", **change)


@pytest.mark.long
@pytest.mark.parametrize("clustering", BY_RULE)
@pytest.mark.parametrize("kind", ["equal", "zero", "twins", "constant column"])
def test_degenerate_features_are_clustered(clustering, kind):
    rng = np.random.default_rng(0)
    features = {
        "equal": np.ones((13, 3)),
        "zero": np.zeros((13, 3)),
        "twins": np.repeat(rng.normal(size=(3, 3)), [6, 6, 1], axis=0),  # fewer different points than groups
        "constant column": np.stack([np.ones(13), rng.normal(size=13)], axis=1),
    }[kind].astype(np.float32)
    labels = np.repeat([0, 1], [12, 1])  # a cluster for each example of one class, and a class of a single example
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


FINITE = st.sampled_from([0.0, 1e300, -1e300, 5e-324]) | st.floats(-800, 800)
LOGITS = arrays.arrays(np.float64, (3, 5), elements=FINITE | st.just(-np.inf))


@given(LOGITS, arrays.arrays(np.int32, 5, elements=st.integers(0, 2)))
def test_aggregate_is_max_and_logsumexp(logits, parent):
    parent = np.unique(parent, return_inverse=True)[1].astype(np.int32)
    members = [logits[:, parent == c] for c in range(parent.max() + 1)]
    largest = np.stack([part.max(axis=1) for part in members], axis=1)
    np.testing.assert_array_equal(aggregate(logits, parent, "max"), largest)
    total = aggregate(logits, parent, "sum")
    expected = np.stack([logsumexp(part, axis=1) for part in members], axis=1)
    np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-12)
    assert (total >= largest).all() and total.dtype == np.float64


def test_aggregate_of_ties_minus_infinity_and_single_groups():
    logits = np.array([[2.0, 2.0, 2.0, -np.inf], [-np.inf, -np.inf, -np.inf, 0.0]])
    parent = np.array([0, 0, 0, 1], np.int32)
    expected = [[2 + np.log(3), -np.inf], [-np.inf, 0]]
    np.testing.assert_allclose(aggregate(logits, parent, "sum"), expected, rtol=1e-15)
    one_group = np.zeros(4, np.int32)
    np.testing.assert_allclose(aggregate(logits, one_group, "sum")[:, 0], logsumexp(logits, axis=1), rtol=1e-15)
    for how in AGGREGATIONS:  # classes that are not split keep their bits
        np.testing.assert_array_equal(aggregate(logits, np.arange(4, dtype=np.int32), how), logits)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_traced_aggregation_is_that_of_numpy_in_float32(how):
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * 30
    parent = np.array([0, 0, 0, 1], np.int32)
    traced = jax.jit(lambda z: aggregate(z, parent, how))(logits)
    np.testing.assert_allclose(traced, aggregate(logits.astype(np.float64), parent, how), rtol=1e-6)
    assert traced.dtype == np.float32


@pytest.mark.parametrize(
    ("features", "labels", "num_classes", "says"),
    [
        (np.zeros((4, 2)), np.array([0, 0, 1]), None, r"features must be \[3, D\], one row per label, not \[4, 2\]"),
        (np.zeros(3), np.array([0, 0, 1]), None, r"not \[3\]"),
        (np.zeros((3, 0)), np.array([0, 0, 1]), None, r"not \[3, 0\]"),
        (np.full((3, 1), np.nan), np.array([0, 0, 1]), None, "features must be finite numbers"),
        (np.array([["a"], ["b"], ["c"]]), np.array([0, 0, 1]), None, "features must be finite numbers"),
        (None, np.array([0, 0, 1]), None, "features are missing"),
        (np.zeros((3, 1)), np.array([0.0, 0.0, 1.0]), None, r"labels must be integers \[N\], not float64 \[3\]"),
        (np.zeros((2, 1)), np.array([[0], [1]]), None, r"labels must be integers \[N\], not int64 \[2, 1\]"),
        (np.zeros((0, 1)), np.array([], int), None, "labels must be integers"),
        (np.zeros((3, 1)), np.array([1, 1, 2]), None, "class 0 of 3 has no examples; number the classes 0 to C-1"),
        (np.zeros((3, 1)), np.array([0, 0, 1]), 3, "class 2 of 3 has no examples"),
        (np.zeros((3, 1)), np.array([0, 0, 2]), 2, "labels must be 0 to 1, not 0 to 2"),
        (np.zeros((3, 1)), np.array([-1, 0, 1]), None, "labels must be 0 to 1, not -1 to 1"),
    ],
)
def test_inconsistent_arrays_are_refused(features, labels, num_classes, says):
    with pytest.raises(ValueError, match=says):
        regroup(features, labels, num_classes)


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=4)
KINDS = {np.float64: [0.0, 1e-300, 1e12, 1e300], np.float32: [1.0, 1e-45, 1e15, 3e38], np.float16: [0.0, 6e-8, 65504]}
KINDS |= {np.int8: [0, -128, 127], np.uint64: [0, 2**64 - 1], np.bool_: [False, True]}


def features(rows, dtype, seed):
    """Features [N, 3] with duplicates, of a type's extremes or (an odd seed) of ordinary values."""
    rng = np.random.default_rng(seed)
    different = rng.choice([1, 3, rows])
    pool = rng.choice(np.array(KINDS[dtype], dtype), (different, 3))
    if seed % 2 and dtype is not np.bool_:
        pool = (rng.normal(size=(different, 3)) * 20).round(seed % 3).astype(dtype)
    return pool[rng.integers(0, len(pool), rows)]


@pytest.mark.long
@given(
    sizes,
    st.sampled_from(BY_RULE),
    st.sampled_from(["ratio", "target"]),
    st.integers(1, 50),
    st.integers(0, 4),
    st.sampled_from(list(KINDS)),
    st.integers(0, 99),
)
def test_any_features_are_split_by_class(sizes, clustering, rule, threshold, min_size, dtype, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(rng.choice([np.int8, np.uint8, np.int64]))
    x = features(len(labels), dtype, seed)
    how = {"rule": rule, "threshold": threshold, "clustering": clustering, "min_size": min_size, "n_init": 2}
    expected = cluster_counts(np.array(sizes), rule, threshold, min_size)
    try:
        with np.errstate(all="ignore"):
            grouping = regroup(x, labels, seed=seed, **how)
    except ValueError as error:
        with np.errstate(all="ignore"):
            huge = not np.isfinite(np.square(x.astype(np.float64)).sum().astype(np.float32))
        assert huge, error
        return
    parent, pseudo = grouping.parent, grouping.pseudo_labels
    assert (pseudo.dtype, parent.dtype) == (np.int32, np.int32)
    np.testing.assert_array_equal(parent[pseudo], labels)
    assert (np.diff(parent) >= 0).all() and grouping.num_classes == len(sizes)
    assert grouping.counts.min() > 0 and grouping.counts.sum() == len(labels)
    np.testing.assert_array_equal(grouping.class_counts, np.array(sizes)[parent])
    groups = np.bincount(parent)
    assert (groups <= expected).all()
    if clustering in ("random", "balanced"):
        np.testing.assert_array_equal(groups, expected)
        within = [
            np.bincount(pseudo[labels == c])[parent[: parent.searchsorted(c, "right")] == c] for c in range(len(sizes))
        ]
        for counts in within:
            evenly = clustering == "random" or min_size == 0
            assert not evenly or np.ptp(counts) <= 1
    small = grouping.counts < min_size
    assert not small[groups[parent] > 1].any()
    again = regroup(x, labels, seed=seed, **how)
    np.testing.assert_array_equal(again.pseudo_labels, pseudo)


@given(
    arrays.arrays(np.int64, 6, elements=st.integers(1, 10**9)),
    st.sampled_from(["ratio", "target"]),
    st.integers(1, 10**9),
)
def test_cluster_counts_are_rounded_half_up_and_at_most_the_examples(counts, rule, threshold):
    unit = int(counts.min()) if rule == "ratio" else max(threshold, int(counts.min()))
    expected = [min(n, 1000, max(1, (2 * n + unit) // (2 * unit))) for n in counts.tolist()]
    if rule == "ratio":
        expected = [k if n > threshold else 1 for k, n in zip(expected, counts, strict=True)]
    assert cluster_counts(counts, rule, threshold).tolist() == expected


PARENT = np.array([0, 0, 1, 2, 2, 2], np.int32)
EXTREME = st.sampled_from([0.0, 1e-45, -1e-38, 104.0, -1e30, 1e30, 3e38, -3e38]) | st.floats(-99, 99, width=32)


@given(
    st.sampled_from([0, 5]).flatmap(lambda n: arrays.arrays(np.float32, (n, 6), elements=EXTREME)),
    st.integers(0, 99),
)
def test_class_logits_of_extreme_logits(logits, seed):
    grouping = Regrouping(np.arange(6, dtype=np.int32), PARENT)
    top, total = (grouping.class_logits(logits, how) for how in ("max", "sum"))
    assert top.shape == total.shape == (len(logits), 3)
    expected = [logits[:, c == PARENT] for c in range(3)]
    subnormal = 2e-38  # to XLA nothing
    np.testing.assert_allclose(top, np.stack([part.max(axis=1) for part in expected], axis=1), rtol=0, atol=subnormal)
    assert (total >= top).all()
    assert (total <= top + np.log(np.float32([2, 1, 3])) * 1.0001).all()
    np.testing.assert_allclose(total[:, 1], logits[:, 2], rtol=0, atol=subnormal)
    wide = np.stack([logsumexp(part.astype(np.float64), axis=1) for part in expected], axis=1)
    np.testing.assert_allclose(total, wide, rtol=1e-5, atol=1e-5)
    members = [np.flatnonzero(c == PARENT) for c in range(3)]
    order = np.concatenate([np.random.default_rng(seed).permutation(members[c]) for c in range(3)])
    np.testing.assert_array_equal(grouping.class_logits(logits[:, order], "max"), top)
    half = grouping.class_logits(logits.astype(jnp.bfloat16), "max")
    np.testing.assert_allclose(half.astype(np.float32), top, rtol=2**-8, atol=subnormal)


def test_given_subclasses_are_groups_and_the_rest_is_clustered():
    rng = np.random.default_rng(0)
    labels, features = np.repeat([0, 1, 2], [90, 40, 10]), rng.normal(size=(140, 4)).astype(np.float32)
    subclasses = np.array(["b", "a", "c", "", ""], "U5")[np.minimum(np.arange(140) // 10, 4)]
    subclasses[labels == 1] = ["c"] * 39 + ["alone"]
    order = rng.permutation(140)
    grouping = regroup(features[order], labels[order], clustering="given", subclasses=subclasses[order], min_size=8)
    # Subclasses keep their sizes. The 60 examples without one are split as a class of 60 is.
    rest = (labels[order] == 0) & (subclasses[order] == "")
    both = rest | (labels[order] == 2)
    alone = regroup(features[order][both], labels[order][both] // 2, min_size=8)
    np.testing.assert_array_equal(grouping.pseudo_labels[rest] - 3, alone.pseudo_labels[rest[both]])
    assert grouping.names == ("a", "b", "c", *[""] * (alone.num_pseudo_classes - 1), "alone", "c", "")
    assert np.bincount(grouping.parent).tolist() == [2 + alone.num_pseudo_classes, 2, 1]
    for k, name in enumerate(grouping.names):
        of_group = order[grouping.pseudo_labels == k]
        assert set(subclasses[of_group]) == {name} and set(labels[of_group]) == {grouping.parent[k]}
        assert not name or len(of_group) == ((subclasses == name) & (labels == grouping.parent[k])).sum()


def test_given_groups_need_features_only_for_the_rest():
    labels = np.repeat([0, 1], [30, 10])
    how = {"clustering": "given", "min_size": 2}
    whole = np.where(labels == 0, np.array(["x", "y"])[np.arange(40) % 2], None)
    assert not needs_features(labels, 2, subclasses=whole, **how)
    assert regroup(None, labels, subclasses=whole, **how).counts.tolist() == [15, 15, 10]
    part = np.where(np.arange(40) < 5, "x", "")
    assert needs_features(labels, 2, subclasses=part, **how)
    with pytest.raises(ValueError, match="features are missing"):
        regroup(None, labels, subclasses=part, **how)
    wrong = {
        "no subclasses; call": {"clustering": "given"},
        r"subclasses must be \[40\]": {"clustering": "given", "subclasses": ["x"]},
        "use clustering='given'": {"clustering": "random", "subclasses": part},
        r"a class has 30 subclasses \(0, 1, 10, \.\.\.\), more than 20; join": {
            "clustering": "given", "subclasses": np.arange(40), "max_groups": 20
        },
    }  # fmt: skip
    for says, arguments in wrong.items():
        with pytest.raises(ValueError, match=says):
            regroup(None, labels, **arguments)


@pytest.mark.parametrize("points", [2, 255, 4096, 4097, 8192, 1_000_000])
@pytest.mark.parametrize("centers", [2, 7, 8, 9, 64, 1000])
def test_padded_shapes_hold_what_they_pad(points, centers):
    padded_points, padded_centers = _rounded_shape(points, centers)
    assert points <= padded_points <= max(256, 2 * points)
    assert centers <= padded_centers <= max(8, 2 * centers)


@pytest.mark.long
def test_a_class_far_smaller_than_the_largest_is_clustered_as_alone():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(4700, 3)), np.repeat([0, 1, 2], (4200, 400, 100))
    groups = regroup(features, labels, rule="target", threshold=200, n_init=2)
    assert np.bincount(groups.parent).tolist() == [21, 2, 1]
    alone = regroup(features[labels > 0], labels[labels > 0] - 1, rule="target", threshold=200, n_init=2)
    assert np.bincount(alone.parent).tolist() == [2, 1]
    assert (groups.pseudo_labels[labels > 0] - 21 == alone.pseudo_labels).all()
