"""The training program on small networks: `train_step` against SGD by hand, and the program's invariances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from rgjax.data.augment import prepare_images
from rgjax.losses import LOSSES, ClassStats
from rgjax.sharding import in_batches
from rgjax.training.layout import layout_for, one_vector
from rgjax.training.prediction import make_predict
from rgjax.training.program import Batch, TrainState, init_state, make_run_steps, train_step
from tests.support.programs import (
    CLASSES,
    STEPS_PER_EPOCH,
    Dense,
    Program,
    assert_same_bits,
    copy,
    hyper_params,
    infinite_gradient,
    infinite_loss,
    key,
    one,
    resnet,
    step_spec,
    train_data,
    with_one_bad_example,
)

SETTINGS = {"gamma": 2.0, "tau": 1.0, "max_m": 0.5, "s": 30.0}


@pytest.fixture(scope="module")
def program():
    return Program()


class Linear(nnx.Module):
    def __init__(self, features: int):
        self.weights = nnx.Param(jnp.asarray(np.random.default_rng(0).standard_normal((features, CLASSES), np.float32)))

    def __call__(self, x, train=False, key=None):
        return x @ self.weights[...]


def linear_step(**settings):
    """`train_step` of softmax regression on 5 features: the jitted function and the first state."""
    graph, state = init_state(Linear(5), "sgd")
    return jax.jit(partial(train_step, step_spec(graph, **settings))), state


def random_batch(rng) -> Batch:
    labels = rng.integers(0, CLASSES, 8, np.int32)
    return Batch(jnp.asarray(rng.standard_normal((8, 5), np.float32)), jnp.asarray(labels))


def test_train_step_is_sgd_written_by_hand():
    """Softmax regression: dL/dW = x^T (p - y) w / sum(w), then v <- m v + (g + decay W) and W <- W - lr v."""
    class_weights = np.array([0.5, 1.0, 3.0], np.float32)
    step, state = linear_step()
    hyper, rng = hyper_params(class_weights=class_weights), np.random.default_rng(1)
    by_hand = np.asarray(jax.tree.leaves(state.params)[0], np.float64)
    velocity = np.zeros_like(by_hand)
    for i in range(3):
        batch = random_batch(rng)
        state, metrics = step(state, batch, hyper, jax.random.key(i))

        x, labels = np.asarray(batch.inputs, np.float64), np.asarray(batch.labels)
        p = np.exp(x @ by_hand)
        p /= p.sum(axis=1, keepdims=True)
        weights = class_weights[labels] / class_weights[labels].sum()
        gradient = x.T @ ((p - np.eye(CLASSES)[labels]) * weights[:, None])
        assert metrics.loss.item() == pytest.approx(-(weights * np.log(p[np.arange(8), labels])).sum(), rel=1e-5)
        assert metrics.correct.item() == (p.argmax(axis=1) == labels).sum()
        velocity = 0.9 * velocity + gradient + 1e-4 * by_hand
        by_hand -= 0.05 * 0.5 * (1 + np.cos(np.pi * i / 8)) * velocity
        np.testing.assert_allclose(jax.tree.leaves(state.params)[0], by_hand, rtol=1e-5, atol=1e-6)
    assert (state.step.item(), state.alive.item()) == (3, True)


@pytest.mark.parametrize("skip", [False, True])
def test_train_step_keeps_all_but_the_count_or_alive_where_it_is_not_finite(skip):
    step, before = linear_step(skip=skip)
    batch = random_batch(np.random.default_rng(1))._replace(inputs=jnp.full((8, 5), jnp.nan))
    state, metrics = step(before, batch, hyper_params(), jax.random.key(0))
    assert not metrics.finite.item()
    assert_same_bits((state.params, state.opt_state), (before.params, before.opt_state))
    assert (state.step.item(), state.alive.item()) == ((1, True) if skip else (0, False))


@given(cuts=st.sets(st.integers(1, 2 * STEPS_PER_EPOCH - 1)))
def test_a_run_cut_into_calls_anywhere_has_the_same_bits(program, cuts):
    """A call ends at the end of an epoch at the latest."""

    def train(stops):
        state, loss, correct = None, 0.0, 0
        for start, end in zip([0, *stops], [*stops, 2 * STEPS_PER_EPOCH], strict=True):
            state, totals = program.run(end - start, state)
            loss, correct = loss + totals.loss.item(), correct + totals.correct.item()
        return state, loss, correct

    whole, whole_loss, whole_correct = train([STEPS_PER_EPOCH])
    state, loss, correct = train(sorted(cuts | {STEPS_PER_EPOCH}))
    assert_same_bits(state, whole)
    assert (loss, correct) == (pytest.approx(whole_loss, rel=1e-5), whole_correct)


def test_hyper_parameters_are_traced(program):
    results, programs = [], set()
    for lr in (0.01, 0.02):
        state, _ = program.run(2, lr=jnp.float32([lr]))
        results.append(np.asarray(jax.tree.leaves(state.params)[0]))
        programs.add(program.run_steps._cache_size())
    assert not np.array_equal(*results)
    assert len(programs) == 1


def test_training_learns_the_labels(program):
    still = {"rotation": jnp.zeros(1), "flip": jnp.zeros(1)}
    losses, state = [], None
    for _ in range(20):
        state, totals = program.run(4, state, augmentation=still, total_steps=jnp.int32([80]))
        losses.append(totals.loss.item() / 4)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.long
def test_deferred_weights_start_at_their_step(program):
    deferred = {"drw_weights": jnp.array([[0.1, 1.0, 5.0]]), "drw_start": jnp.int32([2])}
    plain, _ = program.run(2)
    same, _ = program.run(2, **deferred)
    assert_same_bits(plain, same)
    plain, _ = program.run(1, plain)
    weighted, _ = program.run(1, same, **deferred)
    assert not np.array_equal(jax.tree.leaves(plain.params)[0], jax.tree.leaves(weighted.params)[0])


def test_equal_class_weights_change_nothing(program):
    plain, _ = program.run(1)
    weighted, _ = program.run(1, class_weights=jnp.full((1, 3), 7.0))
    for x, y in zip(jax.tree.leaves(plain.params), jax.tree.leaves(weighted.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_the_options_reach_the_compiler():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        Program(compiler_options=(("xla_no_such_option", True),)).run(1)


@pytest.mark.long
def test_the_loop_of_a_resnet_holds_no_callback_and_no_convolution():
    """On CPUs a convolution inside a loop is ten times slower than the matrix products that replace it."""
    graph, state = init_state(resnet(), "sgd")
    run_steps = make_run_steps(step_spec(graph))
    text = run_steps.lower(one(state), jnp.int32(1), train_data(16), one(hyper_params()), key()).as_text()
    assert "callback" not in text
    assert "stablehlo.convolution" not in text


def test_logits_do_not_depend_on_the_batch_size(program):
    predict = make_predict(program.spec.graph, prepare_images, program.spec.mesh)
    indices = np.arange(11, dtype=np.int32)
    small, large = (
        predict(program.state, program.data.inputs, in_batches(indices, size))[0, :11, :3] for size in (4, 16)
    )
    assert small.shape == (11, 3)
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_parameters_as_one_vector_train_alike(program):
    tree, totals = program.run(3)
    layout = one_vector(*jax.tree.map(lambda x: x[0], (program.state.params, program.state.batch_stats)))
    vector_program = Program(layout=layout)
    stored = jax.vmap(layout.flatten)(copy(program.state))
    assert (stored.params.ndim, stored.batch_stats.ndim) == (2, 2)
    stored, same = vector_program.run(3, stored)
    vector = jax.vmap(layout.unflatten)(stored)
    assert jax.tree.structure(tree) == jax.tree.structure(vector)
    for x, y in zip(jax.tree.leaves((tree, totals)), jax.tree.leaves((vector, same)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_on_gpus_small_arrays_are_one_vector_and_large_ones_are_not():
    small, large = ({"kernel": np.zeros((size, 1000), np.float32)} for size in (2, 600))
    assert layout_for("cuda", small, {}).flatten(small).shape == (2000,)
    assert layout_for("cuda", large, {}).flatten(large) is large
    assert layout_for("cpu", small, {}).flatten(small) is small


@pytest.mark.parametrize(
    "name", ["ce", *(pytest.param(name, marks=pytest.mark.long) for name in LOSSES if name != "ce")]
)
def test_padded_outputs_change_nothing(name):
    arguments = one(LOSSES[name].arguments(SETTINGS, ClassStats(np.array([5, 6, 7]))))
    finals = []
    for outputs in (CLASSES, 8):

        def pad(values, outputs=outputs):
            return jnp.pad(values, ((0, 0), (0, outputs - CLASSES))) if jnp.ndim(values) > 1 else values

        program = Program(Dense(outputs=outputs), LOSSES[name].function)
        weights = pad(program.hyper.class_weights)
        state, totals = program.run(3, loss=jax.tree.map(pad, arguments), class_weights=weights, drw_weights=weights)
        head = jax.tree.leaves(state.params["head"])[0][0, :, :CLASSES]
        finals.append((totals.loss.item(), head))
    assert finals[0][0] == pytest.approx(finals[1][0], rel=1e-5)
    np.testing.assert_allclose(finals[0][1], finals[1][1], rtol=1e-3, atol=1e-4)


def test_calls_move_nothing_to_the_host(program):
    arguments = jax.device_put((jnp.int32(2), program.data, program.hyper, key()))
    state = copy(program.state)
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, totals = program.run_steps(state, *arguments)
    assert np.isfinite(totals.loss.item())


@pytest.mark.parametrize("loss", [infinite_loss, infinite_gradient])
def test_a_step_that_is_not_finite_freezes_the_trial_before_it(loss):
    program = Program(loss=loss)
    data = with_one_bad_example(program.data)
    before, sound = program.run(2, data=data)
    assert (sound.skipped.item(), sound.first.item()) == (0, -1)
    after, totals = program.run(4, data=data)
    assert (totals.skipped.item(), totals.first.item()) == (2, 2)
    assert np.isfinite(totals.first_loss.item()) == (loss is infinite_gradient)
    assert_same_bits((totals.loss, totals.correct), (sound.loss, sound.correct))
    assert (before.alive.item(), after.alive.item()) == (True, False)
    assert_same_bits(after.replace(alive=before.alive), before)
    again, totals = program.run(3, after, data=data._replace(labels=data.labels % 2))
    assert totals.skipped.item() == 3
    assert_same_bits(again, after)


def test_a_skipped_step_changes_nothing_but_the_count():
    program = Program(loss=infinite_gradient, skip=True)
    data = with_one_bad_example(program.data)
    whole, totals = program.run(4, data=data)
    assert (totals.skipped.item(), totals.first.item()) == (1, 2)
    cut, first = program.run(2, data=data)
    cut, second = program.run(1, cut.replace(step=cut.step + 1), data=data)
    assert_same_bits(whole, cut)
    assert totals.loss.item() == pytest.approx(first.loss.item() + second.loss.item(), rel=1e-6)


@pytest.mark.long
def test_a_diverged_trial_leaves_the_others_their_bits(program):
    def train(class_weights) -> tuple[TrainState, list[int]]:
        state, hyper, keys = jax.tree.map(lambda x: jnp.concatenate([x, x]), (program.state, program.hyper, key()))
        hyper = hyper._replace(class_weights=class_weights)
        state, totals = program.run_steps(state, jnp.int32(3), program.data, hyper, keys)
        return state, totals.skipped.tolist()

    sound, _ = train(jnp.ones((2, 3)))
    state, skipped = train(jnp.ones((2, 3)).at[0].set(jnp.nan))
    assert skipped == [3, 0]
    assert (state.step.tolist(), state.alive.tolist()) == ([0, 3], [False, True])
    assert_same_bits(*(jax.tree.map(lambda x: x[1], trained) for trained in (sound, state)))
