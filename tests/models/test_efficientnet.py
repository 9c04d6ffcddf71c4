"""EfficientNet-Lite with the published weights: what it sees in the photographs that scikit-learn bundles."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images

from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.efficientnet import VARIANTS, EfficientNetLite
from rgjax.models.families import open_pretrained
from rgjax.models.pretrained import Checkpoint
from rgjax.models.torch_file import PACKAGED

PALACE, DAISY = 698, 985  # ImageNet's classes


@pytest.mark.parametrize(
    "name, least",
    [
        ("efficientnet-lite0", (0.25, 0.25)),
        pytest.param("efficientnet-lite2", (0.25, 0), marks=pytest.mark.long),
    ],
)
def test_the_published_weights_see_a_palace_and_a_daisy(name, least):
    checkpoint = Checkpoint(name, ways_out="another")
    pretrained = open_pretrained(checkpoint)
    graph, state = nnx.split(pretrained.build())
    see = pretrained.preprocessing
    images = see.normalize(np.stack([see(Image.fromarray(image)) for image in load_sample_images().images]))
    features = jax.jit(lambda state, x: nnx.merge(graph, state).features(x))(state, images)
    tensors = checkpoint.tensors()
    logits = features @ tensors.take("_fc.weight", (1000, 1280)).T + tensors.take("_fc.bias", (1000,))[None]
    probabilities = np.asarray(jax.nn.softmax(logits))
    for row, index, probability in zip(probabilities, (PALACE, DAISY), least, strict=True):
        if probability:  # Lite2 sees a honeycomb
            assert row.argmax() == index and row[index] > probability


def test_only_the_classifier_is_unused(caplog):
    caplog.set_level("INFO", logger="rgjax")
    pretrained = open_pretrained(Checkpoint("efficientnet-lite0", ways_out="another"))
    assert (pretrained.kind, pretrained.build().width) == ("images", 1280)
    assert "2 unused tensors: _fc.bias, _fc.weight" in caplog.text


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_of_the_variants(name):
    state = nnx.state(EfficientNetLite(name, Options(), rng=np.random.default_rng(0)), nnx.Param)
    count = sum(leaf.size for leaf in jax.tree.leaves(state))
    classifier = 1000 * (1280 + 1)
    assert count + classifier == {"efficientnet-lite0": 4_652_008, "efficientnet-lite2": 6_092_072}[name]  # as timm's


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(PACKAGED, "efficientnet-lite0", PACKAGED["efficientnet-lite0"]._replace(package="no-such"))
    with pytest.raises(UserError, match="install the package no-such"):
        Checkpoint("efficientnet-lite0", ways_out="a folder")


def test_a_folder_with_another_file_of_that_name(tmp_path):
    (tmp_path / PACKAGED["efficientnet-lite0"].file).write_bytes(b"0" * 100)
    with pytest.raises(UserError, match="SHA-256"):
        open_pretrained(Checkpoint(str(tmp_path), ways_out="another")).build()
