import numpy as np
import pytest

from rgjax.data import load_data
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
