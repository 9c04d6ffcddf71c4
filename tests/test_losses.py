import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.losses import ClassStats, adjust_logits, cross_entropy, focal, ldam, logit_adjusted, weighted_mean

LOGITS = jax.random.normal(jax.random.key(0), (20, 5)) * 3
LABELS = jnp.arange(20, dtype=jnp.int32) % 5
STATS = ClassStats(np.array([500, 100, 40, 10, 3]))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_neutral_hyper_parameters_are_cross_entropy():
    expected = cross_entropy(LOGITS, LABELS)
    np.testing.assert_array_equal(focal(LOGITS, LABELS, 0.0), expected)
    close(logit_adjusted(LOGITS, LABELS, STATS.prior, 0.0), expected)
    close(ldam(LOGITS, LABELS, STATS.unit_margins, 0.0, 1.0), expected)
    close(weighted_mean(expected, jnp.full(20, 3.0)), expected.mean())


def test_adjustment_of_one_is_balanced_softmax():
    balanced = cross_entropy(LOGITS + jnp.log(jnp.asarray(STATS.counts, jnp.float32))[None], LABELS)
    close(logit_adjusted(LOGITS, LABELS, STATS.prior, 1.0), balanced)
    back = adjust_logits(LOGITS + jnp.log(STATS.prior + 1e-12)[None], STATS.prior, 1.0)
    close(back, LOGITS)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_focal_closed_form(gamma):
    z = np.asarray(LOGITS, np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    p = p[np.arange(20), LABELS]
    close(focal(LOGITS, LABELS, gamma), (1 - p) ** gamma * -np.log(p))


def test_ldam_closed_form():
    margins = 0.5 * np.array([500, 100, 40, 10, 3]) ** -0.25 / 3**-0.25
    z = np.asarray(LOGITS, np.float64)
    z[np.arange(20), LABELS] -= margins[LABELS]
    z *= 10
    expected = np.log(np.exp(z).sum(axis=1)) - z[np.arange(20), LABELS]
    close(ldam(LOGITS, LABELS, STATS.unit_margins, 0.5, 10.0), expected)


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_at_the_extremes(size, gamma):
    logits = size * jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    gradient = jax.grad(lambda z: focal(z, jnp.zeros(2, jnp.int32), gamma).sum())(logits)
    assert np.isfinite(gradient).all()


def test_statistics():
    weights = STATS.inverse_weights
    close(weights * STATS.counts, (weights * STATS.counts)[0].repeat(5))
    close(weights.sum(), 5)
    close(STATS.effective_weights(0.0), np.ones(5))
    close(STATS.prior.sum(), 1)
    with pytest.raises(ValueError, match="at least one"):
        ClassStats(np.array([3, 0]))
