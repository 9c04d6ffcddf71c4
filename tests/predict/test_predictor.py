"""The predictor of a finished run against the logits that the run wrote for its test split."""

import json
import shutil

import numpy as np
import pytest

from rgjax.errors import UserError
from rgjax.predict.predictor import Predictor
from rgjax.storage.files import write_json
from tests.support.finished import digits, digits_run, predictions, text_run, text_sources

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def of_digits():
    return digits_run("la", **{"loss.posthoc": True, "loss.tau": 2.0})


@pytest.fixture(scope="module")
def of_text():
    return text_run("ldam")


def test_test_images_get_the_logits_of_the_run(of_digits):
    saved, dataset = predictions(of_digits), digits()
    assert len(saved["parent"]) == 4
    predictor = Predictor.from_run(of_digits)
    images = dataset.inputs[dataset.test]
    logits = predictor.logits(images)
    np.testing.assert_allclose(logits, saved["test_logits"], rtol=1e-5, atol=1e-5)
    some = np.array([5, 300, 17])
    np.testing.assert_allclose(predictor.logits(images[some]), logits[some], rtol=1e-6, atol=1e-6)


def test_test_sentences_get_the_logits_of_the_run(of_text):
    saved = predictions(of_text)
    lines = (text_sources() / "phrasebank" / "Sentences_50Agree.txt").read_text().splitlines()
    sentences = [lines[int(row)].rpartition("@")[0] for row in saved["test_ids"]]
    predictor = Predictor.from_run(of_text, batch_size=8)
    logits = predictor.logits(sentences)
    assert np.abs(logits).max() > 1  # LDAM's scale is in them
    np.testing.assert_allclose(logits, saved["test_logits"], rtol=1e-5, atol=1e-4)
    long = " ".join(["profit rose"] * 200)
    np.testing.assert_allclose(predictor.logits([long, *sentences])[1:], logits, rtol=1e-5, atol=1e-4)


def test_probabilities_follow_the_aggregation(of_text):
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


def test_images_of_another_size_raise(of_digits):
    with pytest.raises(ValueError, match=r"not uint8 images \(n, 16, 16, 3\)"):
        Predictor.from_run(of_digits)(np.zeros((1, 8, 8, 3), np.uint8))


def refused(workdir):
    with pytest.raises(UserError) as error:
        Predictor.from_run(workdir)
    return str(error.value)


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    assert f"--workdir={tmp_path / 'nowhere'}: there is no such folder" in refused(tmp_path / "nowhere")
    assert "holds no run" in refused(tmp_path)
    seeds = tmp_path / "seeds"
    for seed in (3, 4):
        write_json(seeds / f"seed-{seed}" / "config.json", {})
    write_json(seeds / "config.json", {})
    assert f"holds the runs of 2 seeds; give one of them, such as {seeds / 'seed-3'}" in refused(seeds)
    assert "is not finished; rerun python -m rgjax.main" in refused(seeds / "seed-3")


def test_a_damaged_run_is_refused(of_digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(of_digits, copy)
    (copy / "regrouping.npz").write_bytes(b"half a fi")
    assert f"--workdir={copy}: cannot be used: regrouping.npz changed after the run ended" in refused(copy)
    (copy / "manifest.json").unlink()  # as in runs of older versions
    assert f"--workdir={copy}: cannot be used: its files are damaged: ValueError" in refused(copy)
    shutil.copy(of_digits / "manifest.json", copy)
    shutil.copy(of_digits / "regrouping.npz", copy)
    (copy / "config.json").write_text('{"seed"')
    assert f"--workdir={copy}: cannot be used: config.json changed" in refused(copy)
    shutil.rmtree(copy / "checkpoints")
    assert "result.json or checkpoints/ is missing" in refused(copy)


def test_a_run_whose_pretrained_checkpoint_changed_is_refused(of_text, tmp_path):
    run, bert = tmp_path / "run", tmp_path / "tiny-bert"
    shutil.copytree(of_text, run)
    shutil.copytree(text_sources() / "tiny-bert", bert)
    config = json.loads((run / "config.json").read_text())
    config["model"]["checkpoint"] = str(bert)
    write_json(run / "config.json", config)
    (run / "manifest.json").unlink()
    Predictor.from_run(run)  # the same checkpoint in another folder
    vocabulary = bert / "vocab.txt"
    vocabulary.write_text("\n".join(vocabulary.read_text().split("\n")[::-1]))
    assert f"the checkpoint {bert} has changed since the run began" in refused(run)
