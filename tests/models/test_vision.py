"""Vision transformers against what torch makes of the same checkpoints (record_vision.py)."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from rgjax.errors import UserError
from rgjax.models.backbone import Options, parameter_depths
from rgjax.models.families import open_pretrained
from rgjax.models.pretrained import BlankCheckpoint, Checkpoint
from rgjax.models.vit import resize_matrix

FOLDER = Path(__file__).parent / "vision"
CASES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "golden.npz") as file:
        return dict(file)


def opened(folder):
    return open_pretrained(Checkpoint(str(folder), ways_out="another"))


def test_resizing_equals_torch(golden):
    names = [name for name in golden if name.startswith("resize/")]
    assert len(names) == 18
    for name in names:
        _, resize, old, new = name.split("/")
        np.testing.assert_allclose(resize_matrix(int(old), int(new), resize), golden[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("at", [0, 2], ids=["own size", "20x12"])
@pytest.mark.parametrize(
    "case", [name if name in ("vit", "siglip") else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_features_equal_torch(case, at, golden):
    network = opened(FOLDER / case).build()
    graph, params = nnx.split(network)
    pixels = jnp.asarray(golden["images/20x12" if at else f"images/{network.size}"])
    features = jax.jit(lambda params: nnx.merge(graph, params).features(pixels))(params)
    assert features.shape == (2, network.width)
    np.testing.assert_allclose(features, golden[f"{case}/features"][at], atol=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("case", ["clip", "deit", "dinov2_giant", "dinov2_registers", "siglip"])
def test_states_and_gradients_equal_torch(case, golden):
    graph, params = nnx.split(opened(FOLDER / case).build())

    @jax.jit
    def evaluate(params, pixels):
        def loss(params, pixels):
            model = nnx.merge(graph, params)
            hidden = model.hidden(pixels)
            hidden = hidden if case == "clip" else model.norm_after(hidden)
            return (model.features(pixels) * golden[f"{case}/directions"]).sum(), hidden

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, pixels)

    (_, hidden), (grads, pixels) = evaluate(params, jnp.asarray(golden["images/24"]))
    kernel, patches = golden[f"{case}/gradient/patches"].transpose(2, 3, 1, 0), grads["patches"][...]
    expected = {
        "hidden": (hidden, golden[f"{case}/hidden"]),
        "pixels": (pixels[0], golden[f"{case}/gradient/pixels"]),
        "patches": (patches, kernel.reshape(patches.shape)),
        "positions": (grads["positions"][...], golden[f"{case}/gradient/positions"].reshape(-1, 8)),
        "query": (grads["layers"]["qkv"]["kernel"][0, :, :8], golden[f"{case}/gradient/query"].T),
    }
    for name, (ours, torchs) in expected.items():
        np.testing.assert_allclose(ours, torchs, atol=TOLERANCE * max(1, np.abs(torchs).max()), rtol=0, err_msg=name)


@pytest.mark.long
def test_dropout_and_bfloat16_in_training(golden):
    network = opened(FOLDER / "dinov2_registers").build(Options(dtype=jnp.bfloat16, dropout=0.3))
    graph, params = nnx.split(network)
    pixels, directions = jnp.asarray(golden["images/16"]), golden["dinov2_registers/directions"]

    def loss(params, key):
        with jax.numpy_dtype_promotion("standard"):  # JAX's own attention promotes within
            features = nnx.merge(graph, params).features(pixels, train=key is not None, key=key)
        return (features * directions).sum(), features

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    ((_, once), grads), ((_, again), _) = (step(params, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(once, again, atol=0.01)
    for gradient in map(np.asarray, jax.tree.leaves(grads)):
        assert gradient.dtype == np.float32
        assert np.isfinite(gradient).all()
        assert gradient.any()
    plain, exact = np.asarray(jax.jit(loss)(params, None)[1]), golden["dinov2_registers/features"][0]
    assert plain.dtype == np.float32
    cosines = (plain * exact).sum(axis=1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999


def test_depth_of_parameters():
    network = opened(FOLDER / "siglip").build()
    depths, state = parameter_depths(network), nnx.state(network, nnx.Param)
    jax.tree.map(lambda depth, leaf: np.broadcast_to(depth, leaf.shape), depths, state)
    assert {float(depths[name][...]) for name in ("patches", "patch_bias", "positions")} == {0}
    np.testing.assert_array_equal(depths["layers"]["qkv"]["kernel"][...], [[[1]], [[2]]])
    np.testing.assert_array_equal(depths["layers"]["norm2"]["bias"][...], [[1], [2]])
    assert {float(leaf) for name in ("head", "norm_after") for leaf in jax.tree.leaves(depths[name])} == {3}


def test_depth_of_parameters_in_a_list_of_modules():
    class Plain(nnx.Module):
        above = ("top",)

        def __init__(self):
            self.stem, self.top = nnx.Param(jnp.ones(2)), nnx.Param(jnp.ones(3))
            self.blocks = nnx.List([nnx.Dict(a=nnx.Param(jnp.ones((2, 2)))) for _ in range(3)])

    depths = parameter_depths(Plain())
    assert [float(depths["blocks"][i]["a"][...]) for i in range(3)] == [1, 2, 3]
    assert (float(depths["stem"][...]), float(depths["top"][...])) == (0, 4)


@pytest.fixture
def copied(tmp_path):
    """Copy a checkpoint with changes of its tensors (None: remove) and of its config.json, whose path is dotted."""

    def copy(case, tensors=(), **config):
        folder = tmp_path / case
        shutil.copytree(FOLDER / case, folder)
        weights = load_file(folder / "model.safetensors") | dict(tensors)
        save_file({name: value for name, value in weights.items() if value is not None}, folder / "model.safetensors")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return copy


def says(folder, options=None):
    with pytest.raises(UserError) as error:
        opened(folder).build(options or Options())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("case", "tensors", "expected"),
    [
        ("clip", {"visual_projection.weight": None}, "tensor 'visual_projection.weight' is missing"),
        ("vit", {"embeddings.cls_token": None}, "tensor 'embeddings.cls_token' is missing"),
        (
            "vit",
            {"embeddings.position_embeddings": np.zeros((1, 26, 8), np.float32)},
            "has shape (1, 26, 8), but config.json says (1, 17, 8)",
        ),
        ("deit", {"deit.embeddings.distillation_token": None}, "embeddings.distillation_token' is missing"),
        ("dinov2", {"dinov2.encoder.layer.1.layer_scale2.lambda1": None}, "layer.1.layer_scale2.lambda1' is missing"),
        ("siglip", {"vision_model.head.probe": None}, "tensor 'vision_model.head.probe' is missing"),
    ],
)
def test_missing_or_misshapen_tensor_is_named(case, tensors, expected, copied):
    assert expected in says(copied(case, tensors))


@pytest.mark.parametrize(
    ("case", "config", "expected"),
    [
        ("vit", {"model_type": "dinov2"}, "tensor 'encoder.layer.0.norm1.weight' is missing"),
        ("vit", {"model_type": "swin"}, "unknown model_type"),
        ("vit", {"patch_size": [4, 8]}, "config.json has patch_size=[4, 8]"),
        ("vit", {"patch_size": 17}, "config.json has image_size below patch_size"),
        ("vit", {"image_size": 18}, "config.json has image_size not a multiple of patch_size"),
        ("vit", {"qkv_bias": 1}, "config.json has qkv_bias=1"),
        ("vit", {"num_attention_heads": 3}, "config.json has hidden_size not a multiple of num_attention_heads"),
        ("vit", {"hidden_act": "swiglu"}, "unknown hidden_act"),
        ("dinov2", {"mlp_ratio": -1}, "config.json has mlp_ratio=-1"),
        ("dinov2_registers", {"num_register_tokens": 5}, "has shape (1, 4, 8), but config.json says (1, 5, 8)"),
        ("siglip2", {"num_patches": 15}, "has shape (16, 8), but config.json says (9, 8)"),
    ],
)
def test_impossible_config_is_refused(case, config, expected, copied):
    assert expected in says(copied(case, **config))


def test_image_size_that_patches_do_not_cover_is_refused():
    assert "image size 23 is not a multiple of the patch size 4; use 20 or 24" in says(
        FOLDER / "vit", Options(image_size=23)
    )
    with pytest.raises(UserError, match="image size 18 is not a multiple of the patch size 4"):
        jax.eval_shape(opened(FOLDER / "vit").build().features, jax.ShapeDtypeStruct((1, 18, 16, 3), jnp.float32))
    opened(FOLDER / "siglip_18").build(Options(image_size=18))


@pytest.mark.parametrize("case", ["siglip_headless", "../checkpoints/clip_vision"])
def test_parameters_without_weights_are_those_with_weights(case):
    whole = opened(FOLDER / case).build()
    blank = open_pretrained(BlankCheckpoint(str(FOLDER / case), ways_out="another")).build()
    shapes = [jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(network))) for network in (whole, blank)]
    assert shapes[0] == shapes[1]


def test_sides_as_a_list_are_read(copied):
    assert opened(copied("vit", image_size=[16, 16], patch_size=[4, 4])).settings["patch_size"] == 4


def test_classifiers_are_unused_and_nothing_else():
    for case, unused in [
        ("vit", ["pooler.dense.bias", "pooler.dense.weight"]),
        ("vit_classifier", ["classifier.bias", "classifier.weight"]),
        ("dinov2_registers", ["embeddings.mask_token"]),
        ("siglip_18", []),
    ]:
        network = opened(FOLDER / case)
        tensors = network.checkpoint.tensors()
        network.family.build(tensors, network.settings, Options())
        assert tensors.weights.unused() == unused
