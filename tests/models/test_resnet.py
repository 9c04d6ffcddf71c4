"""ResNet in torchvision's topology: parameter counts by layer, recorded activations, precision."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax.models.resnet import PLAIN, Numerics, ResNet


def count(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(("name", "total"), [("resnet34", 21_797_672), ("resnet18", 11_689_512)])
def test_parameter_count_equals_torchvision(name, total):
    assert count(ResNet(name, 1000, rng=np.random.default_rng(0))) == total


def test_parameter_counts_of_resnet34_by_stage():
    model = ResNet("resnet34", 1000, rng=np.random.default_rng(0))
    assert count(model.conv1) == 9_408
    stages = [model.blocks[:3], model.blocks[3:7], model.blocks[7:13], model.blocks[13:]]
    assert [sum(map(count, stage)) for stage in stages] == [221_952, 1_116_416, 6_822_400, 13_114_368]
    assert count(model.head) == 513_000


def test_activations_equal_torch():
    """record_resnet.py recorded the activations of torch's layers in torchvision's topology."""
    golden = np.load(Path(__file__).with_name("resnet18_torch.npz"))
    model = ResNet("resnet18", 5, width=8, rng=np.random.default_rng(0))
    fill(model)
    for train, name in ((True, "train"), (False, "eval")):
        logits = run(model, jnp.asarray(golden["images"]), train=train)
        np.testing.assert_allclose(logits, golden[name], rtol=2e-4, atol=2e-4)


def run(model, images, train=False):
    """The model's logits, compiled as one program; batch statistics are updated in the model."""
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state, images):
        merged = nnx.merge(graph, state, copy=True)
        logits = merged(images, train=train)
        return logits, nnx.state(merged)

    logits, state = forward(state, images)
    nnx.update(model, state)
    return logits


def fill(model) -> None:
    """Draw weights layer by layer in torchvision's order, as the recording script does."""
    rng = np.random.default_rng(0)

    def draw(shape, scale):
        return jnp.asarray(rng.normal(0, scale, shape).astype(np.float32))

    def fill_pair(conv, norm):
        kh, kw, c_in, c_out = conv.kernel.shape
        conv.kernel[...] = draw(conv.kernel.shape, (2 / (kh * kw * c_in)) ** 0.5)
        norm.scale[...], norm.bias[...] = 1 + draw((c_out,), 0.1), draw((c_out,), 0.1)

    fill_pair(model.conv1, model.bn1)
    for block in model.blocks:
        fill_pair(block.conv1, block.bn1)
        fill_pair(block.conv2, block.bn2)
        if block.projects:
            fill_pair(block.shortcut_conv, block.shortcut_bn)
    model.head.kernel[...], model.head.bias[...] = draw(model.head.kernel.shape, 0.1), draw((5,), 0.1)


@pytest.mark.long
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_recomputation_saves_memory_and_gives_equal_gradients(stem):
    images = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    results, kept = [], []
    for recompute in (False, True):
        numerics = Numerics(recompute=recompute)
        model = ResNet("resnet18", 5, stem=stem, width=8, numerics=numerics, rng=np.random.default_rng(0))
        fill(model)
        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)

        def loss(params, graph=graph, statistics=statistics):
            merged = nnx.merge(graph, params, statistics, copy=True)
            return jnp.sin(merged(images, train=True)).sum(), nnx.state(merged, nnx.BatchStat)

        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
        pullback = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(pullback)) - count(model))
    for x, y in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-4 * float(jnp.abs(x).max()))
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.long
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_bfloat16_logits_are_float32_and_near_exact(stem, head):
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    exact, rough = (
        run(
            ResNet("resnet10", 3, stem=stem, head=head, width=8, numerics=numerics, rng=np.random.default_rng(0)),
            images,
        )
        for numerics in (PLAIN, Numerics(dtype=jnp.dtype("bfloat16")))
    )
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.1 * float(jnp.abs(exact).max()))
