"""Encoders by name."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from rgjax.config import ENCODERS, FIELDS
from rgjax.encoders import Encoder, make_encoder
from rgjax.encoders.factory import MAKERS
from rgjax.encoders.projection import projection
from rgjax.errors import UserError


def make(kind, **changes):
    config = {"name": "auto", "checkpoint": "", "pooling": "mean", "unit_length": True, "seed": 0, "image_size": None}
    return make_encoder(ConfigDict(config | changes), kind, max_length=16, encoder_of_run=run)


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


def test_encoder_of_another_kind_is_refused():
    with pytest.raises(
        UserError, match=r"encoder\.name=clip: cannot encode sentences; use bert, pretrained, file, checkpoint"
    ):
        make("sentences", name="clip")
    with pytest.raises(
        UserError, match=r"encoder\.name=bert: cannot encode images; use clip, projection, pretrained, file"
    ):
        make("images", name="bert")
