import numpy as np
import pytest

from rgjax.data import load
from rgjax.data.splits import split
from rgjax.errors import UserError


def test_stratified_counts_are_the_authors():
    labels = np.repeat(np.arange(7), [6705, 1113, 1099, 514, 327, 142, 115])
    train, _, test = split(
        "stratified", labels, labels, list("abcdefg"), seed=0, test_fraction=0.2, val_fraction=0.2
    )
    assert np.bincount(labels[train])[0] == 4291
    assert np.bincount(labels[train]).tolist() == [
        int(0.8 * int(0.8 * n + 1e-9) + 1e-9) for n in np.bincount(labels)
    ]
    assert np.bincount(labels[test]).tolist() == [1341, 223, 220, 103, 66, 29, 23]


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    groups = np.random.default_rng(seed).integers(0, 60, 200)
    labels = groups % 3
    parts = split("grouped", labels, groups, list("abc"), seed=seed, test_fraction=0.2, val_fraction=0.2)
    assert sorted(np.concatenate(parts)) == list(range(200))
    sets = [set(groups[part]) for part in parts]
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert all(set(labels[part]) == {0, 1, 2} for part in parts)


def test_a_class_that_is_too_small_is_named():
    with pytest.raises(UserError, match="class 'b' has 2"):
        split(
            "stratified", np.repeat([0, 1], [9, 2]), None, "ab", seed=0, test_fraction=0.2, val_fraction=0.2
        )


def test_digits_and_their_binary_view():
    view = load(
        "digits",
        image_size=16,
        split_kind="stratified",
        positive="8",
        seed=0,
        test_fraction=0.2,
        val_fraction=0.2,
    )
    assert view.inputs.shape == (1797, 16, 16, 3)
    assert np.bincount(view.labels).tolist() == [1797 - 174, 174]
    with pytest.raises(UserError, match="no class 'eight'"):
        view.one_vs_rest("eight")
