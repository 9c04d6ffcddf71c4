"""The model card of an export says what the run recorded."""

import json
import shutil

import numpy as np
import pytest
import yaml

from rgjax import metrics
from rgjax.predict.card import model_card
from rgjax.predict.predictor import Predictor
from rgjax.predict.program import program_of
from rgjax.storage.files import write_json
from tests.support.finished import digits_run

NAMES = ("rest", "8")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An untrained run with a result of its own, in which a class has few test examples."""
    copy = tmp_path_factory.mktemp("run") / "w"
    shutil.copytree(digits_run(trained=False), copy)
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10 // 9
    scores = [metrics.evaluate(rng.normal(size=(200, 2)) + 2 * np.eye(2)[labels], labels, NAMES) for _ in range(2)]
    result = {
        "dataset": "digits_8", "train_counts": {"rest": 1032, "8": 111}, "val": scores[0], "test": scores[0],
        "test_by_aggregation": {"max": scores[0]}, "test_tuned_by_aggregation": {"max": scores[1]},
    }  # fmt: skip
    write_json(copy / "result.json", result)
    decisions = {"offsets": {"rest": 0.0, "8": 1.25}, "temperature": 1.5, "biases": {"rest": 0.0, "8": -0.5}}
    write_json(copy / "decision.json", {"rule": "balanced accuracy", "by_aggregation": {"max": decisions}})
    (copy / "manifest.json").unlink()  # it has the checksum of another result
    return copy


def card_of(workdir):
    predictor = Predictor.from_run(workdir, dtype="float32")
    return model_card(predictor, program_of(predictor), onnx=False)


def test_the_card_has_the_scores_and_the_decision(workdir):
    text, result = card_of(workdir), json.loads((workdir / "result.json").read_text())
    test, tuned = result["test"], result["test_tuned_by_aggregation"]["max"]
    low, high = test["ba_ci"]
    assert f"| balanced accuracy | {100 * test['ba']:.1f} [{100 * low:.1f}, {100 * high:.1f}] | " in text
    assert f"| {100 * tuned['ba']:.1f} [" in text
    assert "| rest | 1032 | 180 | 180 |" in text and "| 8 | 111 | 20 | 20 |" in text
    assert "for balanced accuracy: rest +0.00, 8 +1.25" in text and "temperature 1.5" in text
    assert "Fewer than 30 test examples, so that scores are uncertain: 8." in text
    _, front, _ = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-classification"
    [model] = metadata["model-index"]
    values = {metric["name"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert values["balanced accuracy"] == pytest.approx(test["ba"], abs=1e-5)
    assert values["balanced accuracy, tuned decision"] == pytest.approx(tuned["ba"], abs=1e-5)


def test_a_run_of_an_older_version_has_a_card(workdir):
    text = card_of(digits_run(trained=False))  # without scores and without a decision
    assert "The run recorded no scores." in text and "fitted neither offsets nor a temperature" in text
    assert "probabilities, logits = program.call(" in text


def test_the_card_keeps_paths_private(workdir, tmp_path):
    copy = tmp_path / "w"
    shutil.copytree(workdir, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"]["manual_dir"] = "/home/ada/patients"
    config["encoder"]["checkpoint"] = "/home/ada/weights"
    provenance = json.loads((copy / "provenance.json").read_text())
    provenance["encoder"] = {"name": "pretrained", "checkpoint": "/home/ada/weights", "sha256": "0a1b"}
    write_json(copy / "config.json", config)
    write_json(copy / "provenance.json", provenance)
    text = card_of(copy)
    assert "ada" not in text and "encoder `weights` (0a1b)" in text
