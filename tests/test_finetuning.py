"""Runs that fine-tune a pretrained network: what they read, record and leave behind."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax import artifacts
from rgjax.config import IMAGE_FINETUNING
from rgjax.data import load_data
from rgjax.errors import UserError
from rgjax.models.classifier import Classifier
from rgjax.models.factory import make_model
from rgjax.models.preprocessing import PROCESSORS
from rgjax.predict.export import PARAMETERS, PROGRAM, export
from rgjax.predict.predictor import Predictor
from rgjax.predict.run import encoder_of_run
from rgjax.preflight.program import lowered_program, spec_task
from rgjax.training.inputs import resolve_images
from tests.support.downloads import write_tiny_bert
from tests.support.finished import config_of, finish, predictions, text_in

CLIP = Path(__file__).parent / "models" / "checkpoints" / "clip"  # 32 pixels, patches of 8
TEXT = CLIP.parents[1] / "text"
SETTINGS = {
    **IMAGE_FINETUNING,
    "model.checkpoint": str(CLIP),
    "data.color_jitter": 0.3,
    "train.lr": 0.01,
    "train.head_only_percent": 34.0,
    "train.steps": 3,
    "train.batch_size": 64,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of digits at the checkpoint's 32 pixels, whose checkpoint is gone."""
    folder = tmp_path_factory.mktemp("finetuning")
    shutil.copytree(CLIP, folder / "clip")
    workdir = finish(folder / "run", "ce", **SETTINGS | {"model.checkpoint": str(folder / "clip")})
    shutil.rmtree(folder / "clip")
    return workdir


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor.from_run(run)


def test_images_have_the_size_and_interpolation_of_the_checkpoint(run):
    recorded = {name: json.loads((run / f"{name}.json").read_text()) for name in ("config", "provenance")}
    assert recorded["config"]["data"]["image_size"] == recorded["config"]["data"]["interpolation"] == "auto"
    assert artifacts.recorded_choices(run) == {"image_size": 32, "interpolation": "bicubic"}
    resumed, seen = resolve_images(config_of("ce", **SETTINGS), {"image_size": 16, "interpolation": "lanczos"})
    assert (
        (resumed.data.image_size, resumed.data.interpolation)
        == (seen.size, seen.interpolation.lower())
        == (16, "lanczos")
    )


def test_a_copy_of_a_run_predicts_without_its_checkpoint(run, predictor, tmp_path):
    """The logits are those of the network in memory, which `predictions.npz` has."""
    shutil.copytree(run, tmp_path / "copy")
    dataset, recorded = load_data(predictor.run.config.data), predictions(run)
    images = dataset.inputs[dataset.test]
    np.testing.assert_allclose(predictor.logits(images), recorded["test_logits"], rtol=1e-4, atol=1e-5)
    copied = Predictor.from_run(tmp_path / "copy").outputs(images)
    np.testing.assert_array_equal(copied.logits, predictor.logits(images))
    features = encoder_of_run(tmp_path / "copy", "images").encode(images)
    assert features.shape == (len(images), 12)
    np.testing.assert_allclose(features, copied.features, rtol=1e-4, atol=1e-5)


def test_pixels_are_normalized_as_the_checkpoint_says(predictor):
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    model = nnx.merge(predictor.run.graph, *predictor.run.params)
    mean, std = (np.array(PROCESSORS["CLIP"][name], np.float32) for name in ("image_mean", "image_std"))
    expected = model.features(jnp.asarray((image / np.float32(255) - mean) / std))
    np.testing.assert_allclose(predictor.outputs(image).features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_an_export_gives_the_same_logits(predictor, tmp_path):
    from safetensors.numpy import load_file

    export(Predictor(predictor.run._replace(config=_float32(predictor.run.config))), tmp_path)
    program = jax.export.deserialize((tmp_path / PROGRAM).read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    _, logits, *_ = program.call(load_file(tmp_path / PARAMETERS), images)
    np.testing.assert_allclose(logits, predictor.logits(images), rtol=1e-4, atol=1e-5)


def _float32(config):
    config = config.copy_and_resolve_references()
    config.model.dtype = "float32"
    return config


def test_preflight_lowers_the_program_without_weights():
    config = config_of("ce", **SETTINGS)
    task = spec_task(config)
    assert task.inputs.shape[1:] == (32, 32, 3)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        _, lowered = lowered_program(config, task, jax.devices()[:1], "cpu", 2**33)
    assert "stablehlo" in lowered.as_text()


def test_a_new_head_begins_as_hugging_faces_and_dropout_is_of_training_alone():
    model = make_model(config_of("ce", **SETTINGS | {"model.dropout": 0.5}).model, 3, head="linear", seed=0)
    assert isinstance(model, Classifier)
    kernel = np.asarray(model.head.kernel[...])
    assert kernel.shape == (12, 128) and (kernel[:, 3:] == 0).all() and (np.asarray(model.head.bias[...]) == 0).all()
    assert 0.01 < kernel[:, :3].std() < 0.03
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32))
    np.testing.assert_array_equal(model(images), model.head(model.features(images)))
    dropped = model(images, train=True, key=jax.random.key(0))
    assert np.abs(np.asarray(dropped) - np.asarray(model(images)))[:, :3].min() > 0


def test_the_gradient_reaches_every_parameter():
    model = make_model(config_of("ce", **SETTINGS).model, 3, head="linear", seed=0)
    graph, params = nnx.split(model)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32))
    grads = jax.grad(lambda params: (nnx.merge(graph, params)(images)[:, :3] ** 2).sum())(params)
    for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]:
        assert np.abs(grad).max() > 0, path


def test_a_text_network_predicts_without_its_checkpoint(tmp_path):
    """DistilBERT, pooled as its folder says: by the first token."""
    folder = tmp_path / "distilbert"
    shutil.copytree(TEXT / "distilbert", folder)
    write_tiny_bert(tmp_path / "bert")
    words = (tmp_path / "bert" / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(words[:40]))  # as many as the checkpoint has
    (folder / "modules.json").write_text(json.dumps([
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]))  # fmt: skip
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    sources = text_in(tmp_path / "sources") | {"data.max_length": "auto", "regroup.clustering": "none"}
    settings = {"model.name": "pretrained", "model.checkpoint": str(folder), "train.layer_decay": 0.5}
    run = finish(tmp_path / "run", "ce", **sources | settings)
    shutil.rmtree(folder)
    predictor, recorded = Predictor.from_run(run), predictions(run)
    dataset = load_data(predictor.run.config.data)
    logits = predictor.logits(dataset.inputs[dataset.test])
    np.testing.assert_allclose(logits, recorded["test_logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.image_size": 20},
            "image_size=20: not a multiple of the 8 pixels of a patch .*; use 16 or 24",
        ),
        ({"model.checkpoint": ""}, "config.model.checkpoint: is empty, .*model.checkpoint=efficientnet-lite0"),
        ({"model.checkpoint": "/nowhere"}, "there is no folder /nowhere: give a local folder"),
        (
            {"model.name": "resnet10"},
            "image_size=auto: config.model.name=resnet10 has no size of its own; give",
        ),
    ],
)
def test_what_a_checkpoint_cannot_read_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        resolve_images(config_of("ce", **SETTINGS | changes), {})
