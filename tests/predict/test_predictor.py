"""A finished run gives for its own test rows what it wrote itself."""

import json
import shutil

import numpy as np
import pytest

from rgjax.errors import UserError
from rgjax.predict.predictor import Predictor
from rgjax.storage.files import write_json
from tests.support.finished import digits, finish, predictions, text_in


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("digits"), "la", **{"loss.posthoc": True, "loss.tau": 2.0})


@pytest.fixture(scope="module")
def of_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return finish(folder / "run", "ldam", **text_in(folder))


def test_the_runs_own_test_images_give_its_own_logits(of_digits):
    saved, dataset = predictions(of_digits), digits()
    assert len(saved["parent"]) == 4
    predictor = Predictor.from_run(of_digits)
    images = dataset.inputs[dataset.test]
    logits = predictor.logits(images)
    np.testing.assert_allclose(logits, saved["test_logits"], rtol=1e-5, atol=1e-5)
    some = np.array([5, 300, 17])
    np.testing.assert_allclose(predictor.logits(images[some]), logits[some], rtol=1e-6, atol=1e-6)


def test_the_runs_own_test_sentences_give_its_own_logits(of_text):
    saved = predictions(of_text)
    lines = (of_text.parent / "phrasebank" / "Sentences_50Agree.txt").read_text().splitlines()
    sentences = [lines[int(row)].rpartition("@")[0] for row in saved["test_ids"]]
    predictor = Predictor.from_run(of_text, batch_size=8)
    logits = predictor.logits(sentences)
    assert np.abs(logits).max() > 1  # LDAM's scale is in them
    np.testing.assert_allclose(logits, saved["test_logits"], rtol=1e-5, atol=1e-4)
    long = " ".join(["profit rose"] * 200)
    np.testing.assert_allclose(predictor.logits([long, *sentences])[1:], logits, rtol=1e-5, atol=1e-4)


def test_probabilities_are_those_of_the_aggregation(of_text):
    parent = predictions(of_text)["parent"]
    assert len(parent) > 3
    sentences = ["profit rose w1 .", "fell", "flat w3 w4"]
    top, sums = (Predictor.from_run(of_text, aggregate=how).outputs(sentences) for how in ("", "sum"))
    shares = np.exp(top.logits - top.logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    expected = np.stack([shares[:, parent == c].sum(axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(sums.probabilities, expected, rtol=1e-4, atol=1e-6)
    largest = np.stack([shares[:, parent == c].max(axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(top.probabilities, largest / largest.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


def test_images_of_another_size_are_no_input(of_digits):
    with pytest.raises(ValueError, match=r"not uint8 images \(n, 16, 16, 3\)"):
        Predictor.from_run(of_digits)(np.zeros((1, 8, 8, 3), np.uint8))


def refused(workdir):
    with pytest.raises(UserError) as error:
        Predictor.from_run(workdir)
    return str(error.value)


def test_what_is_no_finished_run_is_told(of_digits, of_text, tmp_path):
    assert "there is no folder" in refused(tmp_path / "nowhere")
    assert "holds no run" in refused(tmp_path)
    seeds = tmp_path / "seeds"
    for seed in (3, 4):
        write_json(seeds / f"seed-{seed}" / "config.json", {})
    write_json(seeds / "config.json", {})
    assert f"holds the runs of 2 seeds: give one of them, such as {seeds / 'seed-3'}" in refused(seeds)
    assert "is not finished: python -m rgjax.main" in refused(seeds / "seed-3")
    copy = tmp_path / "copy"
    shutil.copytree(of_digits, copy)
    (copy / "regrouping.npz").write_bytes(b"half a fi")
    assert f"--workdir={copy} cannot be used: " in refused(copy)
    shutil.copy(of_digits / "regrouping.npz", copy)
    (copy / "config.json").write_text('{"seed"')
    assert f"--workdir={copy} cannot be used: " in refused(copy)
    shutil.rmtree(copy / "checkpoints")
    assert "with its checkpoint" in refused(copy)
    shutil.copytree(of_text.parent, tmp_path / "text")
    config = json.loads((of_text / "config.json").read_text())
    config["model"]["checkpoint"] = str(tmp_path / "text" / "tiny-bert")
    write_json(tmp_path / "text" / "run" / "config.json", config)
    assert "config.json in it changed after the run's end" in refused(tmp_path / "text" / "run")
    (tmp_path / "text" / "run" / "manifest.json").unlink()
    vocabulary = tmp_path / "text" / "tiny-bert" / "vocab.txt"
    words = vocabulary.read_text().split("\n")
    vocabulary.write_text("\n".join(words[::-1]))
    assert "it began with another checkpoint" in refused(tmp_path / "text" / "run")
