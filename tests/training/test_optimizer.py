import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rgjax.training.optimizer import OPTIMIZERS, cosine_decay


def test_cosine_decay_closed_form():
    at = jax.vmap(lambda step: cosine_decay(step, peak=0.2, warmup_steps=0, total_steps=100))
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(101) / 100))
    np.testing.assert_allclose(at(jnp.arange(101)), expected, atol=1e-7)


def test_warm_up_rises_to_the_peak():
    rates = [float(cosine_decay(jnp.int32(s), peak=1.0, warmup_steps=4, total_steps=100)) for s in range(6)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)
    assert rates[5] < 1.0


def test_sgd_is_that_of_torch():
    """Two steps by hand: v <- momentum v + (g + decay w); w <- w - lr v."""
    w = jnp.array([1.0, -2.0])
    tx = OPTIMIZERS["sgd"](jnp.float32(0.1), jnp.float32(0.9), jnp.float32(0.01))
    state = tx.init(w)
    by_hand, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in ([0.5, 0.25], [-1.0, 2.0]):
        updates, state = tx.update(jnp.array(gradient), state, w)
        w = optax.apply_updates(w, updates)
        velocity = 0.9 * velocity + np.array(gradient) + 0.01 * by_hand
        by_hand = by_hand - 0.1 * velocity
    np.testing.assert_allclose(w, by_hand, rtol=1e-6)


def test_adamw_is_that_of_torch():
    """Two steps by hand (Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by the rate as torch does)."""
    w = jnp.array([1.0, -2.0])
    tx = OPTIMIZERS["adamw"](jnp.float32(0.1), jnp.float32(0.8), jnp.float32(0.01))
    state = tx.init(w)
    by_hand, mean, square = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(([0.5, 0.25], [-1.0, 2.0]), start=1):
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
            updates, state = tx.update(jnp.array(gradient), state, w)
        w = optax.apply_updates(w, updates)
        g = np.array(gradient)
        mean, square = 0.8 * mean + 0.2 * g, 0.999 * square + 0.001 * g * g
        direction = mean / (1 - 0.8**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        by_hand = by_hand - 0.1 * (direction + 0.01 * by_hand)
    np.testing.assert_allclose(w, by_hand, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hyper_parameters_are_traced(name):
    @jax.jit
    def update(lr, momentum, decay):
        tx = OPTIMIZERS[name](lr, momentum, decay)
        w = jnp.ones(2)
        return tx.update(w, tx.init(w), w)[0]

    with jax.numpy_dtype_promotion("standard"):
        first, second = (update(*map(jnp.float32, values)) for values in ((0.1, 0.9, 0.0), (0.2, 0.9, 0.1)))
    assert not np.allclose(first, second)
    assert update._cache_size() == 1
