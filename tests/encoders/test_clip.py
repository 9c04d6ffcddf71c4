"""CLIP's preprocessing against Hugging Face's, and the encoder on a tiny checkpoint."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.encoders import clip as module
from rgjax.encoders.clip import clip, preprocess
from rgjax.models.families import open_pretrained
from rgjax.models.pretrained import Checkpoint

CHECKPOINT = Path(__file__).parents[1] / "models" / "checkpoints" / "clip"


@pytest.fixture
def checkpoint():
    return Checkpoint(str(CHECKPOINT), ways_out="another")


@pytest.mark.parametrize("case", range(4))
def test_preprocessing_equals_hugging_faces(case):
    with np.load(Path(__file__).parent / "clip_pixels.npz") as file:
        image, pixels, size = file[f"image{case}"], file[f"pixels{case}"], int(file["sizes"][case])
    np.testing.assert_array_equal(preprocess(image[None], size)[0], pixels)


@pytest.mark.long
def test_features_equal_the_networks_for_any_batch_size(checkpoint, monkeypatch, capsys):
    images = np.random.default_rng(0).integers(0, 256, (7, 40, 48, 3), np.uint8)
    mean, std = np.array(module._MEAN), np.array(module._STD)
    pixels = ((preprocess(images, 32) / 255 - mean) / std).astype(np.float32)
    expected = np.asarray(open_pretrained(checkpoint).build().features(jnp.asarray(pixels)))
    raw, unit = (clip(checkpoint, unit_length=unit_length) for unit_length in (False, True))
    np.testing.assert_allclose(raw.encode(images), expected, atol=1e-5)
    monkeypatch.setattr(module, "_BATCH", 3)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.encode(images), expected / lengths, atol=1e-5)
    assert raw.fingerprint != unit.fingerprint
    assert "unused tensors: logit_scale" in capsys.readouterr().err
