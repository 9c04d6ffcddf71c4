"""python -m rgjax.encoders: the file of features, read again as encoder and as data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.encoders import __main__ as command
from rgjax.encoders import features_of, make_encoder
from rgjax.errors import UserError


def encode(path):
    encoder = {"encoder.name": "pretrained", "encoder.checkpoint": "tests/encoders/pictures/clip"}
    command.write(method_config("ce", {"data.name": "digits", **encoder}), path)
    return path


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_file_serves_as_encoder_and_as_data_set(suffix, tmp_path):
    path = encode(tmp_path / f"features{suffix}")
    config = method_config("ce", {"data.name": "digits"})
    digits = load_data(config.data)
    config = method_config("ce", {"encoder.name": "file", "encoder.checkpoint": str(path)})
    encoder = make_encoder(config.encoder, "images", max_length=16, encoder_of_run=make_encoder)
    features = features_of(encoder, digits)
    config = method_config("ce", {"data.name": "features", "data.manual_dir": str(path), "data.split": "official"})
    again = load_data(config.data)
    np.testing.assert_array_equal(again.inputs, features)
    np.testing.assert_array_equal(again.labels, digits.labels)
    assert again.class_names == digits.class_names
    for split, indices in digits.splits.items():
        np.testing.assert_array_equal(np.sort(again.splits[split]), np.sort(indices))
    if suffix == ".npz":
        with np.load(path) as file:
            assert file["features"].dtype == np.float32
            np.testing.assert_array_equal(file["ids"], digits.ids)
            about = json.loads(str(file["encoder"]))
            assert (about["checkpoint"], about["width"], about["image_size"]) == (
                "tests/encoders/pictures/clip",
                12,
                32,
            )


def test_other_outputs_are_refused():
    with pytest.raises(UserError, match=r"--output=features\.csv: must be FILE\.npz or FILE\.parquet"):
        encode(Path("features.csv"))
