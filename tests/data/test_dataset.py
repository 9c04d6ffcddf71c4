import numpy as np
import pytest

from rgjax.data import load_data
from rgjax.errors import UserError

DIGITS = {
    "image_size": 8, "manual_dir": "", "split_kind": "stratified", "seed": 0,
    "test_fraction": 0.2, "val_fraction": 0.2,
}  # fmt: skip


def test_the_binary_view_keeps_the_rows_and_the_split():
    every, view = load_data("digits", positive="", **DIGITS), load_data("digits", positive="8", **DIGITS)
    assert view.name == "digits_8"
    assert view.class_names == ("rest", "8")
    np.testing.assert_array_equal(view.labels, every.labels == 8)
    for part in ("train", "val", "test", "inputs"):
        np.testing.assert_array_equal(getattr(view, part), getattr(every, part))


def test_an_unknown_positive_class_lists_the_valid_ones():
    with pytest.raises(UserError, match=r"unknown class in config\.data\.positive 'eight'; valid: 0, 1, 2"):
        load_data("digits", positive="eight", **DIGITS)
