import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from rgjax.data.dataset import Source
from rgjax.data.splits import split
from rgjax.errors import UserError
from tests.support.data import data_config


def split_of(strategy, labels, group_ids=None, official_test=None, official_val=None, seed=0, **fields):
    indices = np.arange(len(labels))
    source = Source(
        inputs=indices,
        labels=labels,
        class_names=tuple("abcdefg"[: labels.max() + 1]),
        group_ids=indices if group_ids is None else group_ids,
        ids=indices,
        official_test=official_test,
        official_val=official_val,
        fingerprint="",
    )
    return split(source, data_config("digits", split=strategy, seed=seed, **fields))


def test_stratified_counts_are_the_authors():
    sizes = np.array([6705, 1113, 1099, 514, 327, 142, 115])
    labels = np.repeat(np.arange(7), sizes)
    train, _, test = split_of("stratified", labels)
    expected = np.floor(0.8 * np.floor(0.8 * sizes + 1e-9) + 1e-9)
    assert np.bincount(labels[train]).tolist() == expected.tolist()
    assert np.bincount(labels[train])[0] == 4291
    assert np.bincount(labels[test]).tolist() == [1341, 223, 220, 103, 66, 29, 23]


def test_groups_stay_together():
    for seed in range(5):
        group_ids = np.random.default_rng(seed).integers(0, 60, 200)
        labels = group_ids % 3
        splits = split_of("grouped", labels, group_ids, seed=seed)
        assert sorted(np.concatenate(splits)) == list(range(200))
        groups = [set(group_ids[indices]) for indices in splits]
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert all(set(labels[indices]) == {0, 1, 2} for indices in splits)


def test_the_official_test_set_is_kept_and_the_rest_drawn():
    labels = np.tile([0, 0, 0, 1], 50)
    official = np.arange(200) >= 160
    train, val, test = split_of("official", labels, official_test=official)
    np.testing.assert_array_equal(test, np.arange(160, 200))
    assert np.bincount(labels[train]).tolist() == [96, 32]
    assert np.bincount(labels[val]).tolist() == [24, 8]
    with pytest.raises(UserError, match="no official test set; use stratified, grouped"):
        split_of("official", labels)


def test_official_splits_may_lack_a_class_but_not_all_examples():
    labels, indices = np.repeat([0, 1, 2], [6, 5, 5]), np.arange(16)
    official = {"official_test": indices == 0, "official_val": indices == 6}
    train, val, test = split_of("official", labels, **official)
    assert (val.tolist(), test.tolist()) == ([6], [0])
    assert set(labels[train]) == {0, 1, 2}
    with pytest.raises(UserError, match="the official test set is empty; add examples, or use"):
        split_of("auto", labels, official_test=np.zeros(16, bool))


def test_the_official_validation_set_is_kept():
    labels, indices = np.tile([0, 0, 0, 1], 50), np.arange(200)
    official = {"official_test": indices >= 160, "official_val": (indices >= 120) & (indices < 160)}
    expected = indices[:120], indices[120:160], indices[160:]
    for actual, indices_of_split in zip(split_of("official", labels, **official), expected, strict=True):
        np.testing.assert_array_equal(actual, indices_of_split)
    with pytest.raises(
        UserError,
        match="too few examples outside the official splits: class 'b' has 0, and each class needs at least 1",
    ):
        split_of("official", np.where(indices < 120, 0, labels), **official)


def test_groups_stay_together_beside_an_official_test_set():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        group_ids, official = rng.integers(0, 60, 200), rng.random(200) < 0.2  # some groups reach into the test set
        train, val, test = split_of("official", group_ids % 3, group_ids, official_test=official, seed=seed)
        np.testing.assert_array_equal(test, np.flatnonzero(official))
        assert not set(group_ids[train]) & set(group_ids[val])
        assert len(val)


def test_auto_takes_the_strategy_that_the_source_allows():
    labels, indices = np.repeat([0, 1], 50), np.arange(100)
    grouped = {"group_ids": indices // 2}
    official = grouped | {"official_test": indices % 5 == 0}
    for strategy, source in (("official", official), ("grouped", grouped), ("stratified", {})):
        for actual, by_name in zip(
            split_of("auto", labels, **source), split_of(strategy, labels, **source), strict=True
        ):
            np.testing.assert_array_equal(actual, by_name)


def test_seeds_give_different_splits():
    labels = np.repeat([0, 1], 50)
    assert (split_of("stratified", labels, seed=1)[0] != split_of("stratified", labels, seed=2)[0]).any()


def test_too_small_a_class_is_named():
    with pytest.raises(
        UserError, match="too few examples: class 'a' has 1, class 'c' has 2, and each class needs at least 3; add"
    ):
        split_of("stratified", np.repeat([0, 1, 2], [1, 9, 2]))
    with pytest.raises(UserError, match="too few groups: class 'b' has 1"):
        split_of("grouped", np.repeat([0, 1], [9, 4]), group_ids=np.array([*range(9), 9, 9, 9, 9]))


def folds_of(strategy, labels, folds, **source):
    return [split_of(strategy, labels, folds=folds, fold=fold, **source) for fold in range(folds)]


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_folds_are_disjoint_cover_all_examples_and_are_stratified(folds):
    labels = np.repeat(np.arange(4), [501, 203, 50, 20])
    splits = folds_of("stratified", labels, folds)
    assert sorted(np.concatenate([test for _, _, test in splits])) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[test]) for _, _, test in splits])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(axis=1)) <= 1
    for train, val, test in splits:
        assert sorted(np.concatenate([train, val, test])) == list(range(len(labels)))
        rest = np.bincount(labels) - np.bincount(labels[test])
        np.testing.assert_array_equal(np.bincount(labels[train]), np.floor(0.8 * rest + 1e-9))  # val_fraction
    other_seed = folds_of("stratified", labels, folds, seed=1)
    assert (splits[0][2] != other_seed[0][2]).any()


@pytest.mark.parametrize("mixed", [False, True])
def test_folds_keep_groups_whole_and_classes_even(mixed):
    """As even as those of scikit-learn, whose groups may have several classes, too."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        group_ids = np.concatenate([np.minimum(5 * rng.pareto(1, 500), 79).astype(int), np.arange(80, 200)])
        labels = rng.choice(3, 620, p=[0.7, 0.2, 0.1]) if mixed else group_ids % 3
        splits = folds_of("grouped", labels, 5, group_ids=group_ids, seed=seed)
        assert sorted(np.concatenate([test for _, _, test in splits])) == list(range(620))
        for each in splits:
            groups = [set(group_ids[indices]) for indices in each]
            assert len(set.union(*groups)) == sum(map(len, groups)) == 200 - len(set(range(80)) - set(group_ids))
        reference = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, group_ids)
        ours, theirs = (
            np.array([np.bincount(labels[test], minlength=3) for test in tests])
            for tests in ([test for _, _, test in splits], [test for _, test in reference])
        )
        assert (ours > 0).all()
        assert (ours / ours.sum(axis=0)).std(axis=0).mean() <= 1.1 * (theirs / theirs.sum(axis=0)).std(axis=0).mean()


def test_folds_leave_an_official_test_set_alone_and_draw_validation_anew():
    labels, indices = np.tile([0, 0, 0, 1], 50), np.arange(200)
    official = {"official_test": indices >= 160, "official_val": (indices >= 120) & (indices < 160)}
    splits = folds_of("auto", labels, 4, **official)
    assert sorted(np.concatenate([test for _, _, test in splits])) == list(range(160))
    for each in splits:
        assert sorted(np.concatenate(each)) == list(range(160))
        assert [np.bincount(labels[indices]).tolist() for indices in each] == [[72, 24], [18, 6], [30, 10]]
    assert sorted(np.concatenate(folds_of("stratified", labels, 4, **official)[0])) == list(range(200))


def test_class_that_is_too_small_for_the_folds_is_named():
    labels = np.repeat([0, 1, 2], [9, 4, 2])
    message = "config.data.folds=5: too few examples: class 'b' has 4, class 'c' has 2, and each class must"
    with pytest.raises(UserError, match=message):
        split_of("stratified", labels, folds=5)
    with pytest.raises(UserError, match="too few groups: class 'b' has 1, and"):
        split_of("grouped", np.repeat([0, 1], [9, 4]), group_ids=np.array([*range(9), 9, 9, 9, 9]), folds=2)
    with pytest.raises(
        UserError, match="too few examples outside the test fold: class 'c' has 1, and each class needs"
    ):
        split_of("stratified", labels, folds=2)
