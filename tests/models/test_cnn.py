"""Pretrained convolutional networks: ResNets in each naming and EfficientNet-Lite, as torch computes them."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.classifier import Classifier
from rgjax.models.efficientnet import EFFICIENTNET_LITE
from rgjax.models.factory import make_model
from rgjax.models.families import open_pretrained
from rgjax.models.pretrained import Checkpoint, Tensors, Weights
from tests.models.record_cnn import FOLDER, drawn, images

RESNETS = (
    *("torchvision_BasicBlock", "torchvision_Bottleneck", "timm_BasicBlock", "timm_Bottleneck"),
    *("transformers_basic", "transformers_bottleneck", "transformers_strides"),
)


class Drawn(Tensors):
    """Tensors of any name and shape, with random values."""

    def take(self, name, shape):
        return drawn(self.prefixes[0] + name, shape)


def checkpoint(folder):
    return Checkpoint(str(folder), ways_out="another")


def open_resnet(case):
    return open_pretrained(checkpoint(FOLDER / case))


def assert_equal_to_torch(network, case, size, kernel, norm, *, nearby=0, **tolerances):
    """Features, gradients, and running statistics after a training step, all relative to their largest value.

    At a kink of ReLU6, rounding decides between two gradients: so the error is the least of those for the images, and
    for `nearby` ones that differ from them by 2e-7.
    """
    golden = {name.partition("/")[2]: value for name, value in np.load(FOLDER / "golden.npz").items() if case in name}
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    noise = [np.random.default_rng(seed).standard_normal(images(size).shape) for seed in range(nearby)]
    batches = [images(size), *((images(size) * (1 + 2e-7 * values)).astype(np.float32) for values in noise)]

    @jax.jit
    def run(params, rest, x):
        def loss(params, x):
            model = nnx.merge(graph, params, rest, copy=True)
            y = model.features(x, train=True)
            dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
            return (y * dy).sum(), (y, nnx.state(model))

        (dp, dx), (y, state) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return {"train": y, "dx": dx[0], "eval": nnx.merge(graph, params, rest).features(x)}, dp, state

    errors = {name: [] for name in golden}
    for x in batches:
        result, dp, state = run(params, rest, jnp.asarray(x))
        kernel_gradient = dp["blocks"][1][kernel]["kernel"][...]
        statistics = state["blocks"][1][norm]
        result |= {"dw": kernel_gradient, "mean": statistics["mean"][...], "var": statistics["var"][...]}
        for name, expected in golden.items():
            error = np.abs(np.asarray(result[name]).reshape(expected.shape) - expected).max()
            errors[name].append(error / np.abs(expected).max())
    assert {name: min(least) for name, least in errors.items() if not min(least) <= tolerances.get(name, 1e-5)} == {}


@pytest.mark.long
@pytest.mark.parametrize("case", RESNETS)
def test_resnets_equal_torch(case):
    assert_equal_to_torch(open_resnet(case).build(), case, 37, "conv2", "bn2", dx=3e-5, dw=3e-5)


@pytest.mark.long
def test_efficientnet_equals_torch():
    network = EFFICIENTNET_LITE.build(Drawn(Weights({}, Path("drawn"))), {"name": "efficientnet-lite0"}, Options())
    # At 33 pixels, a change of the weights by 1e-7 moves torch's own float64 gradient by 7e-5 of its largest value.
    assert_equal_to_torch(network, "lite0", 33, "depthwise", "bn1", nearby=4, train=5e-4, dx=5e-4, dw=5e-4)


def test_efficientnet_from_scratch_has_the_parameters_of_timms():
    model = make_model(method_config("ce", {"model.name": "efficientnet-lite0"}).model, 3, head="linear", seed=0)
    assert isinstance(model, Classifier)
    leaves = jax.tree.leaves(nnx.state(model.backbone, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == 4_652_008 - 1_281_000  # less its head


@pytest.mark.parametrize("case", ["timm_BasicBlock", "transformers_basic"])
def test_only_the_classifier_is_unused(case, caplog):
    caplog.set_level("INFO", logger="rgjax")
    open_resnet(case).build()
    names = "fc.bias, fc.weight" if "timm" in case else "classifier.1.bias, classifier.1.weight"
    assert f"2 unused tensors: {names}" in caplog.text


def changed(tmp_path, case, *, config=None, **tensors):
    """A copy of a checkpoint; None removes a tensor."""
    folder = tmp_path / "copy"
    shutil.copytree(FOLDER / case, folder)
    values = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({name: value for name, value in values.items() if value is not None}, folder / "model.safetensors")
    if config is not None:
        before = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(before | config))
    return folder


@pytest.mark.parametrize(
    "case, tensors, config, line",
    [
        ("torchvision_BasicBlock", {"layer3.0.bn1.weight": None}, None, "'layer3.0.bn1.weight' is missing"),
        ("torchvision_BasicBlock", {"conv1.weight": None}, None, "'conv1.weight' is missing"),
        ("torchvision_BasicBlock", {"layer1.0.conv1.weight": None}, None, "config.json"),
        ("torchvision_BasicBlock", {"layer2.0.conv2.weight": np.ones((6, 3, 3, 3), "f")}, None, "has shape"),
        ("torchvision_BasicBlock", {"conv1.weight": np.ones((), "f")}, None, "has shape"),
        ("timm_Bottleneck", {"layer1.0.se.fc1.weight": np.ones((2, 2), "f")}, None, "layer1.0.se.fc1.weight"),
        ("timm_Bottleneck", {"layer2.3.conv1.weight": np.ones((2, 2), "f")}, None, "layer2.3.conv1.weight"),
        ("timm_Bottleneck", {}, {"architecture": "resnet50d"}, "'resnet50d'"),
        ("timm_Bottleneck", {}, {"architecture": 3}, "architecture"),
        ("timm_Bottleneck", {}, {"model_args": {"aa_layer": "blur"}}, "aa_layer"),
        ("transformers_basic", {}, {"layer_type": "bottleneck"}, "shape|missing"),
        ("transformers_basic", {}, {"layer_type": "other"}, "layer_type"),
        ("transformers_basic", {}, {"hidden_act": "gelu"}, "hidden_act"),
        ("transformers_basic", {}, {"depths": [1, 2, 1]}, "depths"),
        ("transformers_basic", {}, {"depths": [1, 2, 1, 10**9]}, "depths"),
        ("transformers_basic", {}, {"hidden_sizes": "8"}, "hidden_sizes"),
        ("transformers_basic", {}, {"num_channels": 1}, "num_channels"),
        ("transformers_basic", {}, {"downsample_in_bottleneck": 1}, "downsample_in_bottleneck"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(case, tensors, config, line, tmp_path):
    with pytest.raises(UserError, match=line) as caught:
        open_pretrained(checkpoint(changed(tmp_path, case, config=config, **tensors))).build()
    assert "\n" not in str(caught.value)


def test_a_file_of_another_name_is_read_alone(tmp_path):
    shutil.copy(FOLDER / "torchvision_BasicBlock" / "model.safetensors", tmp_path / "resnet.safetensors")
    assert open_pretrained(checkpoint(tmp_path)).build().width == 10
    shutil.copy(tmp_path / "resnet.safetensors", tmp_path / "second.safetensors")
    with pytest.raises(UserError, match="has no weights"):
        open_pretrained(checkpoint(tmp_path))


def test_a_pickle_is_not_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"0")
    with pytest.raises(UserError, match="is a pickle and is not read"):
        open_pretrained(checkpoint(tmp_path))
