import numpy as np
import pytest

from rgjax.data.dataset import Source
from rgjax.data.splits import split
from rgjax.errors import UserError


def parts(kind, labels, groups=None, official_test=None, official_val=None, seed=0):
    rows = np.arange(len(labels))
    source = Source(
        inputs=rows, labels=labels, class_names=tuple("abcdefg"[: labels.max() + 1]),
        groups=rows if groups is None else groups, ids=rows, official_test=official_test, official_val=official_val,
        fingerprint="",
    )  # fmt: skip
    return split(source, kind, seed=seed, test_fraction=0.2, val_fraction=0.2)


def test_stratified_counts_are_the_authors():
    sizes = np.array([6705, 1113, 1099, 514, 327, 142, 115])
    labels = np.repeat(np.arange(7), sizes)
    train, _, test = parts("stratified", labels)
    expected = np.floor(0.8 * np.floor(0.8 * sizes + 1e-9) + 1e-9)
    assert np.bincount(labels[train]).tolist() == expected.tolist()
    assert np.bincount(labels[train])[0] == 4291
    assert np.bincount(labels[test]).tolist() == [1341, 223, 220, 103, 66, 29, 23]


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    groups = np.random.default_rng(seed).integers(0, 60, 200)
    labels = groups % 3
    split_rows = parts("grouped", labels, groups, seed=seed)
    assert sorted(np.concatenate(split_rows)) == list(range(200))
    sets = [set(groups[part]) for part in split_rows]
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert all(set(labels[part]) == {0, 1, 2} for part in split_rows)


def test_the_official_test_set_is_kept_and_the_rest_dealt_out():
    labels = np.tile([0, 0, 0, 1], 50)
    official = np.arange(200) >= 160
    train, val, test = parts("official", labels, official_test=official)
    np.testing.assert_array_equal(test, np.arange(160, 200))
    assert np.bincount(labels[train]).tolist() == [96, 32]
    assert np.bincount(labels[val]).tolist() == [24, 8]
    with pytest.raises(UserError, match="has no official test set; use stratified, grouped"):
        parts("official", labels)


def test_a_class_may_be_absent_from_the_official_sets_but_these_have_rows():
    labels, rows = np.repeat([0, 1, 2], [6, 5, 5]), np.arange(16)
    official = {"official_test": rows == 0, "official_val": rows == 6}
    train, val, test = parts("official", labels, **official)
    assert (val.tolist(), test.tolist()) == ([6], [0])
    assert set(labels[train]) == {0, 1, 2}
    with pytest.raises(UserError, match="the official test set has no rows: add some, or use"):
        parts("auto", labels, official_test=np.zeros(16, bool))


def test_the_official_validation_set_is_kept_too():
    labels, rows = np.tile([0, 0, 0, 1], 50), np.arange(200)
    official = {"official_test": rows >= 160, "official_val": (rows >= 120) & (rows < 160)}
    for found, expected in zip(
        parts("official", labels, **official), (rows[:120], rows[120:160], rows[160:]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="class 'b' has 0 rows beside the official sets: a split into 1 parts needs 1"):
        parts("official", np.where(rows < 120, 0, labels), **official)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_beside_an_official_test_set(seed):
    rng = np.random.default_rng(seed)
    groups, official = rng.integers(0, 60, 200), rng.random(200) < 0.2  # some groups reach into the test set
    train, val, test = parts("official", groups % 3, groups, official_test=official, seed=seed)
    np.testing.assert_array_equal(test, np.flatnonzero(official))
    assert not set(groups[train]) & set(groups[val])
    assert len(val)


def test_the_split_suits_the_source():
    labels, rows = np.repeat([0, 1], 50), np.arange(100)
    official, groups = rows % 5 == 0, rows // 2
    shared = {"groups": groups}
    for kind, source in (("official", shared | {"official_test": official}), ("grouped", shared), ("stratified", {})):
        for found, expected in zip(parts("auto", labels, **source), parts(kind, labels, **source), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_another_seed_is_another_split():
    labels = np.repeat([0, 1], 50)
    assert (parts("stratified", labels, seed=1)[0] != parts("stratified", labels, seed=2)[0]).any()


def test_a_class_that_is_too_small_is_named():
    with pytest.raises(UserError, match="class 'a' has 1 rows, class 'c' has 2 rows: a split into 3 parts needs 3 or"):
        parts("stratified", np.repeat([0, 1, 2], [1, 9, 2]))
    labels = np.repeat([0, 1], [9, 2])
    with pytest.raises(UserError, match="class 'b' has 2 rows"):
        parts("stratified", labels)
    with pytest.raises(UserError, match="class 'b' has 1 groups"):
        parts("grouped", np.repeat([0, 1], [9, 4]), groups=np.array([*range(9), 9, 9, 9, 9]))
