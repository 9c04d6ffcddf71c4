"""Tuned classes and calibrated probabilities, by the command, in Python and in an export."""

import csv
import io
import json
import shutil

import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import log_softmax, softmax

from rgjax import experiment
from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.predict import __main__
from rgjax.predict.predictor import Predictor
from rgjax.storage.files import write_json
from tests.support.finished import digits, digits_run

TEMPERATURE, BIAS = 2.5, 0.7


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An untrained run, and a decision that moves half of the digits to another class than the likeliest."""
    copy = tmp_path_factory.mktemp("run") / "w"
    shutil.copytree(digits_run(trained=False), copy)
    ratio = np.subtract(*log_probabilities(copy).T)  # of "rest" to "8"
    decisions = {
        "offsets": {"rest": 0.0, "8": float(np.median(ratio))},
        "temperature": TEMPERATURE,
        "biases": {"rest": 0.0, "8": BIAS},
    }
    by_aggregation = {"max": decisions, "sum": {**decisions, "temperature": 7.0}}
    write_json(copy / "decision.json", {"split": "val", "n": 9, "rule": "costs", "by_aggregation": by_aggregation})
    return copy


def images():
    return digits().inputs[:20]


def log_probabilities(workdir):
    """By NumPy, from the logits of the pseudo-classes."""
    with np.load(workdir / "regrouping.npz") as file:
        parent = file["parent"]
    logits = Predictor.from_run(workdir).logits(images())
    return log_softmax(np.stack([logits[:, parent == c].max(axis=1) for c in (0, 1)], axis=1), axis=1)


def expected(workdir):
    recorded = json.loads((workdir / "decision.json").read_text())["by_aggregation"]["max"]
    logs = log_probabilities(workdir)
    scores = logs + np.array([recorded["offsets"]["rest"], recorded["offsets"]["8"]])
    return logs, scores, softmax(logs / TEMPERATURE + np.array([0, BIAS]), axis=1)


def predicted(capsys, workdir, tmp_path, *options):
    paths = [tmp_path / f"{i}.png" for i in range(len(images()))]
    for path, image in zip(paths, images(), strict=True):
        Image.fromarray(image).save(path)
    assert __main__.main([f"--workdir={workdir}", "--neighbors=0", *map(str, paths), *options]) == 0
    out, err = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(out))), err


def test_the_command_decides_as_asked_and_says_how(workdir, tmp_path, capsys):
    logs, scores, calibrated = expected(workdir)
    names = np.array(["rest", "8"])
    assert 5 < (scores.argmax(axis=1) != logs.argmax(axis=1)).sum() < 15
    for options, decided, shares, line in (
        ((), logs, np.exp(logs), "decision: argmax; probabilities: not calibrated"),
        (
            ("--decision=tuned",),
            scores,
            np.exp(logs),
            "decision: tuned on validation for costs; probabilities: not",
        ),
        (("--calibrated",), logs, calibrated, "decision: argmax; probabilities: calibrated, at temperature 2.5"),
    ):
        rows, err = predicted(capsys, workdir, tmp_path, *options)
        assert line in err
        assert [row["class"] for row in rows] == names[decided.argmax(axis=1)].tolist()
        np.testing.assert_allclose([[float(row["p_rest"]), float(row["p_8"])] for row in rows], shares, rtol=1e-4)
        assert {row["decision"] for row in rows} == {"tuned" if decided is scores else "argmax"}
        assert {float(row["temperature"]) for row in rows} == {TEMPERATURE if shares is calibrated else 1.0}


def test_the_predictor_decides_as_asked(workdir):
    logs, scores, calibrated = expected(workdir)
    predictor, names = Predictor.from_run(workdir), np.array(["rest", "8"])
    assert predictor.predict(images()).tolist() == names[logs.argmax(axis=1)].tolist()
    assert predictor.predict(images(), decision="tuned").tolist() == names[scores.argmax(axis=1)].tolist()
    np.testing.assert_allclose(predictor(images()), np.exp(logs), rtol=1e-4)
    np.testing.assert_allclose(predictor(images(), calibrated=True), calibrated, rtol=1e-4)
    assert Predictor.from_run(workdir, aggregate="sum").decision.temperature == 7
    with pytest.raises(UserError, match="decision"):
        predictor.predict(images(), decision="best")


@pytest.mark.parametrize("option", ["--decision=tuned", "--calibrated"])
def test_a_run_without_a_decision_cannot_be_asked_for_one(option, tmp_path):
    run = f"--workdir={digits_run(trained=False)}"
    for words in (["a.png"], [f"--export={tmp_path / 'export'}"]):
        with pytest.raises(UserError, match=r"holds no decision.json, .* train it again"):
            __main__.main([run, option, *words])
    assert not (tmp_path / "export").exists()


def test_an_export_has_both_decisions(workdir, tmp_path):
    assert __main__.main([f"--workdir={workdir}", f"--export={tmp_path}"]) == 0
    program = jax.export.deserialize((tmp_path / "model.stablehlo").read_bytes())
    outputs = [np.asarray(x) for x in program.call(load_file(tmp_path / "parameters.safetensors"), images())]
    logs, scores, calibrated = expected(workdir)
    for output, reference in zip(outputs, (np.exp(logs), None, calibrated, scores), strict=False):
        if reference is not None:
            np.testing.assert_allclose(output, reference, rtol=1e-4, atol=1e-5)
    sure = np.abs(np.subtract(*scores.T)) > 1e-3
    assert outputs[4][sure].tolist() == scores.argmax(axis=1)[sure].tolist() and sure.sum() > 15
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    described = [(output["shape"][1:], output["dtype"]) for output in manifest["outputs"]]
    assert described == [(list(output.shape[1:]), str(output.dtype)) for output in outputs]
    assert manifest["decision"]["temperature"] == TEMPERATURE


@pytest.fixture(scope="module")
def of_features(tmp_path_factory):
    """A head on a file of features, and this file."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    labels = np.array(["a", "b"])[(np.arange(80) % 4 == 0).astype(int)]
    np.savez(folder / "f.npz", features=rng.normal(size=(80, 6)).astype(np.float32), labels=labels)
    settings = {"data.name": "features", "data.manual_dir": str(folder / "f.npz"), "model.name": "linear",
                "train.steps": 2, "train.batch_size": 8, "trackers": ""}  # fmt: skip
    experiment.run(method_config("ce", settings), folder / "w")
    return folder / "w", folder / "f.npz"


@pytest.mark.long
def test_a_head_on_a_file_of_features_predicts_other_files(of_features, tmp_path, capsys):
    workdir, file = of_features
    with np.load(file) as content:
        features = content["features"]
    np.savez(tmp_path / "new.npz", features=features[:3], ids=np.array(["x", "y", "z"]))
    np.savez(tmp_path / "wide.npz", features=np.ones((2, 7)))
    words = [f"--workdir={workdir}", "--neighbors=1", *(str(tmp_path / name) for name in ("new.npz", "wide.npz", "no"))]
    assert __main__.main(words) == 2
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["id"].rpartition(":")[2] for row in rows] == ["x", "y", "z"]
    assert all(row["neighbor_1"] for row in rows)
    predictor = Predictor.from_run(workdir)
    np.testing.assert_allclose([float(row["p_b"]) for row in rows], predictor(features[:3])[:, 1], rtol=1e-4)
    assert "7 features for each example; the run reads 6" in err and "no such file" in err
    with pytest.raises(UserError, match="was trained on features; give files of features"):
        __main__.main([f"--workdir={workdir}", "--text=hello"])


@pytest.mark.long
def test_a_head_is_exported_alone(of_features, tmp_path):
    workdir, file = of_features
    assert __main__.main([f"--workdir={workdir}", f"--export={tmp_path}"]) == 0
    with np.load(file) as content:
        features = content["features"]
    program = jax.export.deserialize((tmp_path / "model.stablehlo").read_bytes())
    probabilities, *_ = program.call(load_file(tmp_path / "parameters.safetensors"), features)
    np.testing.assert_allclose(probabilities, Predictor.from_run(workdir)(features), rtol=1e-5)
    assert json.loads((tmp_path / "manifest.json").read_text())["inputs"][0]["shape"] == ["b", 6]
