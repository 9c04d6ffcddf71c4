"""The predictor of a finished run against the logits that the run wrote for its test split."""

import shutil

import numpy as np
import pytest
from PIL import Image

from rgjax.errors import UserError
from rgjax.predict.export import export
from rgjax.predict.predictor import Predictor
from rgjax.predict.run import encoder_of_run
from rgjax.storage.files import write_json
from tests.support.finished import digits, digits_run, finish_untrained, predictions, text_in, text_run, text_sources

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
    assert "is not finished; rerun " in refused(seeds / "seed-3")


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


@pytest.fixture
def text_run_of_its_own(tmp_path):
    """A run of sentences, and the folder with the data and the weights that it began with."""
    sources = tmp_path / "sources"
    return finish_untrained(tmp_path / "run", **text_in(sources)), sources


def outputs_of(workdir, folder):
    """What a run gives: logits, exported parameters and tokenizer, and features as an encoder, with their name."""
    sentences = ["profit rose w1 .", "fell", "flat w3 w4"]
    written = {path.name: path for path in export(Predictor.from_run(workdir, dtype="float32"), folder)}
    encoder = encoder_of_run(workdir, "sentences")
    return [
        Predictor.from_run(workdir).logits(sentences).tobytes(),
        *(written[name].read_bytes() for name in ("parameters.safetensors", "tokenizer.json")),
        encoder.encode(np.array(sentences)).tobytes(),
        encoder.fingerprint,
    ]


def test_a_copied_run_needs_neither_its_checkpoint_nor_its_data(text_run_of_its_own, tmp_path):
    run, sources = text_run_of_its_own
    before = outputs_of(run, tmp_path / "exported")
    shutil.copytree(run, tmp_path / "elsewhere" / "run")
    shutil.rmtree(run)
    shutil.rmtree(sources)
    assert outputs_of(tmp_path / "elsewhere" / "run", tmp_path / "exported again") == before


def test_a_copied_run_of_images_needs_no_data(tmp_path):
    data = tmp_path / "data"
    for name, gray in (("cat", 30), ("dog", 200)):
        (data / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (9, 9), gray + i).save(data / name / f"{i}.png")
    changes = {"data.name": "images", "data.manual_dir": str(data), "data.positive": "", "train.batch_size": 4}
    run, images = finish_untrained(tmp_path / "run", **changes), np.zeros((2, 16, 16, 3), np.uint8)
    before = Predictor.from_run(run).logits(images)
    shutil.rmtree(data)
    shutil.move(run, tmp_path / "moved")
    np.testing.assert_array_equal(Predictor.from_run(tmp_path / "moved").logits(images), before)


def test_changes_of_the_kept_files_are_noticed(text_run_of_its_own):
    run, _ = text_run_of_its_own
    (run / "pretrained" / "vocab.txt").write_text("[PAD]\n")
    assert "pretrained/vocab.txt changed after the run ended" in refused(run)
    (run / "pretrained" / "vocab.txt").unlink()
    assert "pretrained/vocab.txt changed after the run ended" in refused(run)


def as_of_an_older_version(run):
    """The run without the copies that older versions did not make."""
    shutil.rmtree(run / "pretrained")
    (run / "manifest.json").unlink()
    return run


def test_a_run_of_an_older_version_reads_its_checkpoint(text_run_of_its_own, tmp_path):
    run, sources = text_run_of_its_own
    sentences = ["profit rose w1 .", "fell", "flat w3 w4"]
    expected = Predictor.from_run(run).logits(sentences)
    np.testing.assert_array_equal(Predictor.from_run(as_of_an_older_version(run)).logits(sentences), expected)
    bert, moved = sources / "tiny-bert", tmp_path / "moved"
    bert.rename(moved)
    message = refused(run)
    assert f"there is no folder {bert}" in message and "(--checkpoint=FOLDER)" in message
    with pytest.raises(UserError, match=r"there is no folder .*tiny-bert.* \(--config\.encoder\.name=bert\)"):
        encoder_of_run(run, "sentences")
    logits = Predictor.from_run(run, checkpoint=str(moved)).logits(sentences)
    np.testing.assert_array_equal(logits, expected)
    vocabulary = moved / "vocab.txt"
    vocabulary.write_text("\n".join(vocabulary.read_text().split("\n")[::-1]))
    with pytest.raises(UserError, match="has changed since the run began"):
        Predictor.from_run(run, checkpoint=str(moved))
