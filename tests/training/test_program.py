"""The training program on a small network: against torch-like arithmetic by hand, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.batches import in_batches
from rgjax.data.augment import prepare_images
from rgjax.losses import LOSSES, ClassStats, cross_entropy
from rgjax.models.resnet import ResNet
from rgjax.training.program import (
    Hyper,
    TrainData,
    init_state,
    make_predict,
    make_run_steps,
)

BATCH, ROWS = 8, 32


def setup(classes=3, **changes):
    rng = np.random.default_rng(0)
    data = TrainData(
        inputs=jnp.asarray(rng.integers(0, 256, (40, 16, 16, 3), np.uint8)),
        rows=jnp.arange(4, 4 + ROWS, dtype=jnp.int32),
        labels=jnp.asarray(rng.integers(0, classes, ROWS, np.int32)),
        pool=jnp.arange(ROWS, dtype=jnp.int32),
    )
    ones = np.ones(classes, np.float32)
    hyper = Hyper(
        lr=0.05, momentum=0.9, weight_decay=1e-4, warmup_steps=0, total_steps=8,
        augmentation={"flip": 0.5, "rotation": 15.0}, loss={}, class_weights=ones, drw_weights=ones, drw_start=8,
    )  # fmt: skip
    hyper = jax.tree.map(lambda v: jnp.asarray(v, jnp.int32 if isinstance(v, int) else jnp.float32), hyper)
    graph, state = init_state(ResNet("resnet10", classes, width=4, rng=np.random.default_rng(0)), "sgd")
    return graph, state, data, hyper._replace(**changes)


def program(graph, loss=cross_entropy):
    return make_run_steps(graph, loss, prepare_images, optimizer="sgd", batch_size=BATCH, steps_per_epoch=ROWS // BATCH)


def copy(state):
    return jax.tree.map(jnp.copy, state)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def prepared():
    graph, state, data, hyper = setup()
    return graph, state, data, hyper, program(graph)


def test_steps_may_be_cut_into_calls_anywhere(prepared):
    _, state, data, hyper, run = prepared
    key = jax.random.key(0)
    whole, totals = run(copy(state), jnp.int32(4), data, hyper, key)
    part, first = run(copy(state), jnp.int32(1), data, hyper, key)
    part, second = run(part, jnp.int32(3), data, hyper, key)
    assert_same_bits(whole, part)
    assert float(totals.loss) == pytest.approx(float(first.loss) + float(second.loss), rel=1e-6)
    assert int(totals.correct) == int(first.correct) + int(second.correct)


def test_no_value_of_a_hyper_parameter_recompiles(prepared):
    _, state, data, hyper, run = prepared
    results = []
    for lr in (0.01, 0.02):
        after, _ = run(copy(state), jnp.int32(2), data, hyper._replace(lr=jnp.float32(lr)), jax.random.key(0))
        results.append(np.asarray(jax.tree.leaves(after.params)[0]))
    assert not np.array_equal(*results)
    assert run._cache_size() == 1


def test_training_learns_the_labels(prepared):
    _, state, data, hyper, run = prepared
    still = {"rotation": jnp.float32(0), "flip": jnp.float32(0)}
    hyper = hyper._replace(augmentation=still, total_steps=jnp.int32(80))
    losses, state = [], copy(state)
    for _ in range(20):
        state, totals = run(state, jnp.int32(4), data, hyper, jax.random.key(0))
        losses.append(float(totals.loss) / 4)
    assert losses[-1] < 0.7 * losses[0]


def test_deferred_weights_set_in_at_their_step(prepared):
    _, state, data, hyper, run = prepared
    key = jax.random.key(0)
    weights = jnp.array([0.1, 1.0, 5.0])
    plain, _ = run(copy(state), jnp.int32(2), data, hyper, key)
    later = hyper._replace(drw_weights=weights, drw_start=jnp.int32(2))
    same, _ = run(copy(state), jnp.int32(2), data, later, key)
    assert_same_bits(plain, same)
    plain, _ = run(plain, jnp.int32(1), data, hyper, key)
    weighted, _ = run(same, jnp.int32(1), data, later, key)
    assert not np.array_equal(jax.tree.leaves(plain.params)[0], jax.tree.leaves(weighted.params)[0])


def test_equal_class_weights_are_no_weights(prepared):
    _, state, data, hyper, run = prepared
    key = jax.random.key(0)
    plain, _ = run(copy(state), jnp.int32(1), data, hyper, key)
    weighted, _ = run(copy(state), jnp.int32(1), data, hyper._replace(class_weights=jnp.full(3, 7.0)), key)
    for x, y in zip(jax.tree.leaves(plain.params), jax.tree.leaves(weighted.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loop_holds_no_callback_and_no_convolution(name):
    graph, state, data, hyper = setup()
    hyper = hyper._replace(
        loss=jax.device_put(
            LOSSES[name].arguments({"gamma": 2.0, "tau": 1.0, "max_m": 0.5, "s": 30.0}, ClassStats(np.array([5, 6, 7])))
        )
    )
    run = program(graph, LOSSES[name].function)
    text = run.lower(state, jnp.int32(1), data, hyper, jax.random.key(0)).as_text()
    assert "callback" not in text
    assert "stablehlo.convolution" not in text


def test_prediction_is_exact_whatever_the_batch(prepared):
    graph, state, data, *_ = prepared
    predict = make_predict(graph, prepare_images)
    rows = np.arange(11, dtype=np.int32)
    small, large = (
        predict(state.params, state.batch_stats, data.inputs, in_batches(rows, size))[:11] for size in (4, 16)
    )
    assert small.shape == (11, 3)
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)
