import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rgjax.losses import ClassStats, adjust_logits, cross_entropy, focal, ldam, logit_adjusted, weighted_mean

LOGITS = jax.random.normal(jax.random.key(0), (20, 5)) * 3
LABELS = jnp.arange(20, dtype=jnp.int32) % 5
STATS = ClassStats(np.array([500, 100, 40, 10, 3]))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_neutral_hyper_parameters_give_cross_entropy():
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


@pytest.mark.long
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


B, K = 4, 5  # of all hypothesis examples, so that they share their programs
ORDINARY = st.floats(-50, 50, width=32)
EXTREME = st.sampled_from([0.0, 1e-45, -1e-38, 80.0, -104.0, 1e4, -1e4, 1e30, -1e30])


def logits(values=ORDINARY | EXTREME):
    """Few values, so that there are ties."""
    few = st.lists(values, min_size=1, max_size=4)
    return few.flatmap(lambda choices: arrays.arrays(np.float32, (B, K), elements=st.sampled_from(choices)))


classes = arrays.arrays(np.int32, B, elements=st.integers(0, K - 1))
counts = arrays.arrays(np.int64, K, elements=st.integers(1, 10) | st.integers(1, 10**9))
numbers = st.fixed_dictionaries(
    {
        "gamma": st.sampled_from([0.0, 1e-6, 1.0, 20.0]) | st.floats(0, 20, width=32),
        "tau": st.sampled_from([0.0, 1.0, 20.0]) | st.floats(0, 20, width=32),
        "max_m": st.floats(0, 100, width=32),
        "s": st.floats(2**-9, 1000, width=32),
    }
)


@jax.jit
def _all_losses(z, labels, prior, margins, gamma, tau, max_m, s):
    def losses(z):
        return {
            "ce": cross_entropy(z, labels),
            "focal": focal(z, labels, gamma),
            "la": logit_adjusted(z, labels, prior, tau),
            "ldam": ldam(z, labels, margins, max_m, s),
        }

    return losses(z), {name: jax.grad(lambda z, name=name: losses(z)[name].sum())(z) for name in losses(z)}


def all_losses(z, labels, prior, margins, numbers):
    """Losses [B] and their gradients [B, K], by name."""
    return jax.tree.map(np.asarray, _all_losses(z, labels, prior, margins, *map(np.float32, numbers.values())))


@given(logits(), classes, counts, numbers)
def test_losses_and_gradients_of_any_logits_are_finite(z, labels, counts, numbers):
    stats = ClassStats(counts)
    losses, gradients = all_losses(z, labels, stats.prior, stats.unit_margins, numbers)
    cosines = all_losses(np.clip(z, -1, 1), labels, stats.prior, stats.unit_margins, numbers)  # of LDAM's head
    losses["ldam"], gradients["ldam"] = (part["ldam"] for part in cosines)
    for name, values in losses.items():
        assert np.isfinite(values).all(), name
        assert (values >= 0).all(), name
        assert np.isfinite(gradients[name]).all(), name
    for name in ("ce", "la"):  # softmax - e_y
        assert np.abs(gradients[name]).max() <= 1
        np.testing.assert_allclose(gradients[name].sum(axis=1), 0, atol=1e-5)
    assert (losses["focal"] <= losses["ce"] * (1 + 1e-5)).all()


@given(logits(ORDINARY), classes, counts, numbers, st.permutations(range(K)), st.permutations(range(B)), ORDINARY)
def test_losses_ignore_class_order_example_order_and_a_common_shift(z, labels, counts, numbers, names, rows, shift):
    stats, names, rows = ClassStats(counts), np.array(names), np.array(rows)
    prior, margins, before = stats.prior, stats.unit_margins, numbers | {"s": 1.0}
    plain = all_losses(z, labels, prior, margins, before)
    moved = all_losses((z + np.float32(shift))[rows], labels[rows], prior, margins, before)
    renamed = all_losses(z[:, names], np.argsort(names).astype(np.int32)[labels], prior[names], margins[names], before)
    for name in plain[0]:
        for part in (0, 1):  # losses, gradients
            expected = plain[part][name][:, names] if part else plain[part][name]
            np.testing.assert_allclose(renamed[part][name], expected, rtol=1e-4, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(moved[part][name], plain[part][name][rows], rtol=1e-4, atol=1e-3, err_msg=name)


@given(logits(ORDINARY), classes, counts, st.floats(0, 1, width=32))
def test_posthoc_adjustment_inverts_the_training_adjustment(z, labels, counts, tau):
    prior, tau = ClassStats(counts).prior, np.float32(tau)
    back = logit_adjusted(adjust_logits(z, prior, tau), labels, prior, tau)
    np.testing.assert_allclose(back, cross_entropy(z, labels), rtol=1e-4, atol=1e-4)


@given(
    arrays.arrays(np.float32, B, elements=st.floats(0, 2**20, width=32)),
    arrays.arrays(np.float32, B, elements=st.floats(2**-10, 2**10, width=32)),
    st.floats(2**-5, 2**5, width=32),
)
def test_weighted_mean_is_bounded_and_ignores_the_scale_of_the_weights(losses, weights, scale):
    mean = weighted_mean(jnp.asarray(losses), jnp.asarray(weights))
    assert losses.min() * (1 - 1e-5) <= mean <= losses.max() * (1 + 1e-5)
    np.testing.assert_allclose(
        weighted_mean(jnp.asarray(losses), jnp.asarray(weights * np.float32(scale))), mean, rtol=1e-5
    )


@given(counts, st.sampled_from([np.uint8, np.int32, np.int64]), st.permutations(range(K)))
def test_statistics_of_any_counts(counts, dtype, order):
    counts, order = np.minimum(counts, np.iinfo(dtype).max).astype(dtype), np.array(order)
    stats, reordered = ClassStats(counts), ClassStats(counts[order])
    by_size = np.argsort(counts, kind="stable")
    for weights, permuted in (
        (stats.inverse_weights, reordered.inverse_weights),
        (stats.effective_weights(), reordered.effective_weights()),
        (stats.unit_margins, reordered.unit_margins),
        (1 - stats.prior, 1 - reordered.prior),
    ):
        assert weights.dtype == np.float32
        assert np.isfinite(weights).all() and (weights >= 0).all()
        np.testing.assert_allclose(permuted, weights[order], rtol=1e-5)
        assert (np.diff(weights[by_size]) <= 1e-6).all()  # larger classes have no more
    assert stats.prior.min() > 0 and stats.unit_margins.max() == 1
    assert stats.prior.sum() == pytest.approx(1, abs=1e-5)
    for weights in (stats.inverse_weights, stats.effective_weights()):
        assert weights.min() > 0 and weights.sum() == pytest.approx(K, rel=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        ClassStats(np.append(counts, 0))
