"""Encoders by name."""

import numpy as np
import pyarrow as pa
import pytest
from ml_collections import ConfigDict
from pyarrow import parquet

from rgjax.config import ENCODERS, FIELDS, VARIANTS
from rgjax.encoders import Encoder, make_encoder
from rgjax.encoders.factory import MAKERS
from rgjax.encoders.projection import projection
from rgjax.errors import UserError


def make(kind, **changes):
    given = {"name": "auto", "checkpoint": "", "pooling": "mean", "unit_length": True, "seed": 0, "image_size": None}
    config = ConfigDict({**given, "dtype": "auto", **changes})
    return make_encoder(config, kind, max_length=16, encoder_of_run=run)


def run(workdir, kind):
    return Encoder(f"{workdir} {kind}", np.asarray)


def test_config_lists_all_encoders():
    assert set(MAKERS) == {name for names in ENCODERS.values() for name in names}
    assert set(FIELDS["encoder.name"].choices or ()) == {"auto", "checkpoint", *MAKERS}


def test_encoder_is_made_by_name(tiny_bert):
    assert make("images", name="projection", seed=3).fingerprint == projection(seed=3).fingerprint
    by_name, by_kind = (make("sentences", name=name, checkpoint=str(tiny_bert)) for name in ("bert", "auto"))
    assert by_name.fingerprint == by_kind.fingerprint
    assert make("images", name="checkpoint", checkpoint="a/run").fingerprint == "a/run images"


def test_the_ablation_of_the_encoder_replaces_all_settings_of_a_pretrained_one():
    ablation = {name.removeprefix("encoder."): value for name, value in VARIANTS["random projection"].items()}
    settings = {"name": "pretrained", "checkpoint": "efficientnet-lite0", "image_size": 96}
    assert make("images", **{**settings, **ablation}).fingerprint == projection(seed=0).fingerprint


def test_encoder_of_another_kind_is_refused():
    with pytest.raises(
        UserError, match=r"encoder\.name=clip: cannot encode sentences; use bert, pretrained, file, checkpoint"
    ):
        make("sentences", name="clip")
    with pytest.raises(
        UserError, match=r"encoder\.name=bert: cannot encode images; use clip, projection, pretrained, file"
    ):
        make("images", name="bert")


# Features that the user brings


def write_file(path, ids, features, **more):
    np.savez(path, ids=np.array(ids), features=np.array(features, np.float32), **more)
    return str(path)


def test_features_of_a_file_are_matched_by_id(tmp_path):
    features = np.arange(12).reshape(4, 3)
    name = write_file(tmp_path / "f.npz", ["d", "a", "c", "b"], features)
    table = tmp_path / "f.parquet"
    parquet.write_table(pa.table({"id": ["d", "a", "c", "b"], "features": features.tolist()}), table)
    for kind in ("images", "sentences"):
        for file in (name, str(table)):
            encoder = make(kind, name="file", checkpoint=file)
            assert encoder.reads == "ids"
            np.testing.assert_array_equal(encoder.encode(np.array(["a", "b", "d"])), features[[1, 3, 0]])


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [
        (["a", "c"], np.zeros((2, 3)), "1 of 2 ids of the data set are missing: b;"),
        (["a", "b", "b"], np.zeros((3, 3)), "1 repeated id: b"),
        (["a", "b"], [[0, 1], [np.nan, 1]], "the features of b are not finite"),
        (["a", "b"], np.zeros((3, 3)), "2 ids for 3 features"),
        (["a", "b"], np.zeros(2), "features is float32 .*it must be numbers of shape"),
        (["a", "b"], np.zeros((2, 0)), "features is float32 .*it must be numbers of shape"),
    ],
)
def test_bad_files_of_features_are_one_line(ids, features, message, tmp_path):
    name = write_file(tmp_path / "f.npz", ids, features)
    with pytest.raises(UserError, match=message):
        make("images", name="file", checkpoint=name).encode(np.array(["a", "b"]))


def test_file_needs_ids(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.zeros((2, 3)))
    with pytest.raises(UserError, match=r"f\.npz: no ids, by which its features are matched"):
        make("images", name="file", checkpoint=str(tmp_path / "f.npz"))
