"""Predictions of a head on frozen features: the encoder reads new inputs as it read the training set's."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rgjax import experiment
from rgjax.config import method_config
from rgjax.predict import __main__
from rgjax.predict.predictor import Predictor

CLIP = Path(__file__).parents[1] / "encoders" / "pictures" / "clip"
HEAD = {
    "model.name": "mlp", "model.hidden": 8, "train.batch_size": 8, "train.steps": 3, "regroup.n_init": 1, "trackers": ""
}  # fmt: skip

pytestmark = pytest.mark.long


@pytest.fixture
def photos(tmp_path):
    """Noise of odd sides and two modes."""
    rng = np.random.default_rng(0)
    for i in range(50):
        mode, channels = [("RGB", 3), ("L", 1)][i % 2]
        pixels = rng.integers(0, 256, (20 + i, 31, channels), np.uint8).squeeze()
        path = tmp_path / "photos" / "ab"[i % 5 == 0] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, mode).save(path)
    return tmp_path / "photos"


def predicted(capsys, workdir, *words, code=0):
    assert __main__.main([f"--workdir={workdir}", *map(str, words)]) == code
    return {row["id"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def check_probabilities(rows, workdir, prefix=""):
    """Those of the test examples are those of the run."""
    with np.load(workdir / "predictions.npz") as file:
        ids, logits, parent, names = (file[name] for name in ("test_ids", "test_logits", "parent", "class_names"))
    best = np.stack([logits[:, parent == c].max(axis=1) for c in range(len(names))], axis=1)
    expected = np.exp(best - best.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    for identity, probabilities in zip(ids, expected, strict=True):
        row = rows[prefix + str(identity)]
        np.testing.assert_allclose([float(row[f"p_{name}"]) for name in names], probabilities, atol=1e-4)


def test_new_images_are_seen_whole_by_the_encoder(photos, tmp_path, capsys):
    data = {"data.name": "images", "data.manual_dir": str(photos), "data.split": "auto", "data.image_size": 8}
    encoder = {"encoder.name": "pretrained", "encoder.checkpoint": str(CLIP)}
    workdir = tmp_path / "w"
    experiment.run(method_config("rg", HEAD | data | encoder), workdir)
    (tmp_path / "bad.png").write_bytes(b"no image")
    capsys.readouterr()
    rows = predicted(capsys, workdir, "--neighbors=1", photos, tmp_path / "bad.png", code=2)
    check_probabilities(rows, workdir, f"{photos}/")
    with np.load(workdir / "regrouping.npz") as file:
        groups = dict(zip(file["rows"].tolist(), file["pseudo_labels"].tolist(), strict=True))
    ids = experiment.load_data(method_config("ce", data).data).ids
    seen = {str(ids[index]): (rows[f"{photos}/{ids[index]}"], group) for index, group in groups.items()}
    itself = [row["neighbor_1"] == name for name, (row, group) in seen.items() if int(row["group"]) == group]
    assert len(itself) > 3 and all(itself)
    assert __main__.main([f"--workdir={workdir}", f"--export={tmp_path / 'exported'}"]) == 0  # the head alone
    assert json.loads((tmp_path / "exported" / "manifest.json").read_text())["inputs"][0]["name"] == "features"
    # Such a run is itself an encoder, of its hidden units.
    again = {"encoder.name": "checkpoint", "encoder.checkpoint": str(workdir)}
    assert experiment.prepare(method_config("rg", HEAD | data | again)).features.shape[1] == 8


def test_new_texts_are_read_by_the_encoder(tiny_bert, tmp_path, capsys):
    rows = [f"profit {'rose' if i % 3 else 'fell'} {i},{'ab'[i % 4 == 0]}" for i in range(60)]
    place = tmp_path / "t.csv"
    place.write_text("\n".join(["text,label", *rows]))
    data = {"data.name": "text", "data.manual_dir": str(place), "data.max_length": 20}
    workdir = tmp_path / "w"
    experiment.run(method_config("ce", HEAD | data | {"encoder.checkpoint": str(tiny_bert)}), workdir)
    capsys.readouterr()
    check_probabilities(predicted(capsys, workdir, "--neighbors=0", place), workdir)
    assert Predictor.from_run(workdir)(["profit rose", "so"]).shape == (2, 2)
