import importlib

import numpy as np
import pytest

from rgjax.config import FIELDS
from rgjax.data import ham10000, load_data, phrasebank
from rgjax.errors import UserError
from tests.support.data import data_config


def test_the_binary_view_keeps_examples_and_split():
    multiclass = load_data(data_config("digits", image_size=8))
    binary = load_data(data_config("digits", image_size=8, positive="8"))
    assert binary.name == "digits_8"
    assert binary.class_names == ("rest", "8")
    np.testing.assert_array_equal(binary.labels, multiclass.labels == 8)
    for field in ("train", "val", "test", "inputs"):
        np.testing.assert_array_equal(getattr(binary, field), getattr(multiclass, field))


def test_an_unknown_positive_class_lists_the_valid_ones():
    with pytest.raises(UserError, match=r"unknown class in config\.data\.positive 'eight'.*; valid: 0, 1, 2"):
        load_data(data_config("digits", image_size=8, positive="eight"))


def test_the_literals_of_the_config_are_the_data_sets():
    for name in FIELDS["data.name"].choices:
        module = importlib.import_module(f"rgjax.data.{name}")
        assert callable(module.load) and callable(module.spec)
    assert FIELDS["data.agreement"].choices == tuple(phrasebank.AGREEMENTS)


def test_a_spec_has_the_published_counts():
    ham = load_data(data_config("ham10000", split="official"), spec=True)
    assert np.bincount(ham.labels[ham.test]).tolist() == list(ham10000.TEST_COUNTS.values())
    assert len(ham.train) + len(ham.val) == sum(ham10000.COUNTS.values()) == 10_015
    cifar = load_data(data_config("cifar100", split="official"), spec=True)
    assert [len(indices) for indices in cifar.splits.values()] == [40_000, 10_000, 10_000]
