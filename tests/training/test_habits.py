"""Layer decay, a frozen start, decay without vectors, clipped gradients: against torch, and by their properties."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.errors import UserError
from rgjax.training.habits import make_habits
from rgjax.training.layout import TREES, one_vector
from rgjax.training.program import Batch, init_state, train_step
from rgjax.training.setup import require_trainable
from tests.support.programs import Dense, assert_same_bits, hyper_params, resnet, step_spec

RECORDED = dict(np.load(Path(__file__).with_name("habits_torch.npz")))
STEPS, CLIP, RATE, DECAY, LAYER_DECAY = 5, 0.1, 0.05, 0.3, 0.5  # as in record_habits.py
STEADY = 2**30  # steps of a schedule whose rate does not fall


class Linear(nnx.Module):
    def __init__(self, name: str):
        self.kernel = nnx.Param(jnp.asarray(RECORDED[f"first.{name}.weight"].T))
        self.bias = nnx.Param(jnp.asarray(RECORDED[f"first.{name}.bias"]))

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...][None]


class Tower(nnx.Module):
    def __init__(self):
        self.stem = Linear("stem")
        self.blocks = nnx.List([Linear("blocks.0"), Linear("blocks.1")])

    def __call__(self, x):
        for layer in (self.stem, *self.blocks):
            x = jnp.tanh(layer(x))
        return x


class Network(nnx.Module):
    def __init__(self):
        self.backbone, self.head = Tower(), Linear("head")

    def __call__(self, x, train=False, key=None):
        return self.head(self.backbone(x))


def habits_of(model, **fields):
    return make_habits(method_config("ce", {f"train.{name}": value for name, value in fields.items()}).train, model)


def train(optimizer="adamw", *, head_only=0, trials=0, flat=False, steps=STEPS, **fields):
    """The parameters before and after `steps` steps on the recorded batches."""
    model = Network()
    graph, state = init_state(model, optimizer)
    layout = one_vector(state.params) if flat else TREES
    spec = step_spec(graph, optimizer=optimizer, layout=layout, habits=habits_of(model, **fields))
    hyper = hyper_params(lr=RATE, weight_decay=DECAY, total_steps=STEADY, head_only_steps=head_only)
    state, first = jax.tree.map(jnp.asarray, layout.flatten(state)), state.params
    step = partial(train_step, spec)
    if trials:
        state, hyper = jax.tree.map(lambda x: jnp.stack([x] * trials), (state, hyper))
        step = jax.vmap(step, in_axes=(0, None, 0, None))
    step = jax.jit(step)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        for x, labels in zip(RECORDED["x"][:steps], RECORDED["labels"], strict=False):
            state, _ = step(state, Batch(jnp.asarray(x), jnp.asarray(labels, jnp.int32)), hyper, jax.random.key(0))
    assert step._cache_size() == 1
    after = jax.vmap(layout.unflatten)(state.params) if trials else layout.unflatten(state.params)
    return first, after


LIKE_TORCH = {"layer_decay": LAYER_DECAY, "decay_all": False, "clip_norm": CLIP}


@pytest.mark.parametrize(
    ("optimizer", "how"), [("adamw", {}), ("sgd", {"flat": True}), ("adamw", {"flat": True, "trials": 2})]
)
def test_steps_are_those_of_torch(optimizer, how):
    _, params = train(optimizer, **how, **LIKE_TORCH)
    for trial in range(how.get("trials", 1)):
        model = Network()
        nnx.update(model, jax.tree.map(lambda x, trial=trial: x[trial], params) if "trials" in how else params)
        layers = {"stem": model.backbone.stem, "head": model.head}
        layers |= {f"blocks.{i}": block for i, block in enumerate(model.backbone.blocks)}
        for name, layer in layers.items():
            expected = RECORDED[f"{optimizer}.{name}.weight"].T, RECORDED[f"{optimizer}.{name}.bias"]
            np.testing.assert_allclose(layer.kernel[...], expected[0], rtol=1e-5, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(layer.bias[...], expected[1], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("flat", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_head_learns_alone_as_on_frozen_features(flat):
    """All but the head keeps its bits; the head's gradient is clipped as if there were nothing else."""
    first, params = train(head_only=STEPS, flat=flat, head_only_percent=1.0, clip_norm=CLIP)
    assert_same_bits(params["backbone"], first["backbone"])
    features = [np.asarray(Network().backbone(jnp.asarray(x))) for x in RECORDED["x"]]
    kernel, bias = (np.asarray(first["head"][name][...], np.float64) for name in ("kernel", "bias"))
    moments = [np.zeros_like(kernel), np.zeros_like(kernel), np.zeros_like(bias), np.zeros_like(bias)]
    for step, (x, labels) in enumerate(zip(features, RECORDED["labels"], strict=True), start=1):
        logits = x @ kernel + bias
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (p - np.eye(3)[labels]) / len(x)
        grads = [x.T @ error, error.sum(axis=0)]
        scale = min(CLIP / (np.sqrt(sum((g * g).sum() for g in grads)) + 1e-6), 1)
        for i, (values, grad) in enumerate(zip((kernel, bias), grads, strict=True)):
            g = grad * scale
            moments[2 * i] = 0.9 * moments[2 * i] + 0.1 * g
            moments[2 * i + 1] = 0.999 * moments[2 * i + 1] + 0.001 * g * g
            mean, square = moments[2 * i] / (1 - 0.9**step), moments[2 * i + 1] / (1 - 0.999**step)
            values -= RATE * (mean / (np.sqrt(square) + 1e-8) + DECAY * values)
    np.testing.assert_allclose(params["head"]["kernel"][...], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["head"]["bias"][...], bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.long)])
def test_then_all_parameters_learn_with_steps_of_the_usual_size(optimizer):
    first, before = train(optimizer, head_only=3, steps=3, head_only_percent=50.0)
    _, after = train(optimizer, head_only=3, steps=4, head_only_percent=50.0)
    assert_same_bits(before["backbone"], first["backbone"])
    moves = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after["backbone"], before["backbone"])), strict=True)
    ]
    assert min(moves) > 0
    assert max(moves) < (2 * RATE if optimizer == "adamw" else 1)


def test_the_head_has_a_multiple_of_the_learning_rate():
    def moves(**fields):
        first, params = train("sgd", steps=1, **fields)
        return nnx.to_pure_dict(jax.tree.map(lambda a, b: np.asarray(a - b), params, first))

    plain, fast = moves(), moves(head_lr=4.0)
    assert_same_bits(fast["backbone"], plain["backbone"])
    for name, move in fast["head"].items():
        np.testing.assert_allclose(move, 4 * plain["head"][name], rtol=1e-4, atol=1e-6)
    rates = habits_of(Network(), head_lr=3.0, layer_decay=0.5).rates
    assert set(map(float, jax.tree.leaves(rates["head"]))) == {3}
    assert max(map(float, jax.tree.leaves(rates["backbone"]))) == 0.5


def test_layers_of_one_array_have_rates_of_their_own():
    """As in timm's ViTs of three layers: 0.5^4 below them, then 0.5^3 to 0.5, 1 above them and for the head."""
    layers = {"bias": np.zeros((3, 4)), "kernel": np.zeros((3, 4, 4))}

    class Stacked(nnx.Module):
        above = ("norm",)

        def __init__(self):
            self.layers = Params(**layers)
            self.norm, self.words = Params(scale=np.zeros(4)), Params(table=np.zeros((7, 4)))

    class Whole(nnx.Module):
        def __init__(self):
            self.backbone, self.head = Stacked(), Params(kernel=np.zeros((4, 2)))

    habits = habits_of(Whole(), layer_decay=0.5, decay_all=False, head_only_percent=5.0)
    rates, decays, heads = (
        jax.tree.map(np.ravel, nnx.to_pure_dict(tree)) for tree in (habits.rates, habits.decays, habits.heads)
    )
    expected = {"words": {"table": [1 / 16]}, "norm": {"scale": [1]}}
    expected["layers"] = {name: [1 / 8, 1 / 4, 1 / 2] for name in layers}
    assert jax.tree.map(list, rates["backbone"]) == expected
    assert rates["head"] == {"kernel": [1]}
    assert decays == {
        "backbone": {"words": {"table": [1]}, "norm": {"scale": [0]}, "layers": {"bias": [0], "kernel": [1]}},
        "head": {"kernel": [1]},
    }
    assert jax.tree.leaves(heads) == [0, 0, 0, 0, 1]


class Params(nnx.Module):
    def __init__(self, **arrays):
        for name, values in arrays.items():
            setattr(self, name, nnx.Param(jnp.asarray(values, jnp.float32)))


def test_networks_from_scratch_have_no_layers_to_tell_apart():
    assert habits_of(Dense()) == habits_of(resnet()) == make_habits(method_config("ce", {}).train, Network())
    assert habits_of(resnet(), decay_all=False, clip_norm=1.0).decays is not None
    for field, value in (("layer_decay", 0.5), ("head_lr", 10.0), ("head_only_percent", 10.0)):
        with pytest.raises(
            UserError, match=rf"^config\.train\.{field}={value}: is for pretrained networks; use --config"
        ):
            require_trainable(method_config("ce", {f"train.{field}": value}), load_data(method_config("ce", {}).data))
