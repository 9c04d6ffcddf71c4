"""Heads on frozen features: standardization, features, dropout, and scikit-learn's logistic regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.preprocessing import StandardScaler

from rgjax.models.frozen import FeatureClassifier, Standardization
from rgjax.training.program import init_state


def features(count=50, width=6):
    drawn = np.random.default_rng(0).standard_normal((count, width))
    return (drawn * np.logspace(-1, 1, width) + np.logspace(2, -2, width)).astype(np.float32)


def classifier(x, **changes):
    settings = {"hidden": 0, "head": "linear", "dropout": 0.0, "dtype": jnp.float32} | changes
    return FeatureClassifier(Standardization.of(x), 3, rng=np.random.default_rng(0), **settings)


def test_a_linear_head_reads_what_the_standard_scaler_gives():
    x = features()
    scaler = StandardScaler().fit(x[:30].astype(np.float64))
    read = classifier(x[:30]).features(jnp.asarray(x))
    np.testing.assert_allclose(read, scaler.transform(x), rtol=1e-3, atol=1e-3)  # of 100 +- 0.1 in float32


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678, -3e30])
def test_constant_features_become_zeros(constant):
    x = features()
    x[:, 1] = constant
    read = np.asarray(classifier(x).features(jnp.asarray(x)))
    assert np.isfinite(read).all()
    np.testing.assert_array_equal(read[:, 1], 0)


def test_an_mlp_is_a_hidden_layer_of_relus_and_a_head():
    x = features()
    model = classifier(x, hidden=8)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    kernel, bias = np.asarray(model.hidden.kernel[...]), np.asarray(model.hidden.bias[...])
    hidden = np.maximum(standard @ kernel + bias, 0)
    np.testing.assert_allclose(model.features(jnp.asarray(x)), hidden, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(model(jnp.asarray(x)), model.head(model.features(jnp.asarray(x))))
    rough = classifier(x, hidden=8, dtype=jnp.bfloat16).features(jnp.asarray(x))
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, model.features(jnp.asarray(x)), rtol=0.05, atol=0.05)


def test_hidden_units_are_dropped_in_training_only():
    x, key = jnp.asarray(features()), jax.random.key(0)
    model = classifier(features(), hidden=256, dropout=0.5)
    assert not np.array_equal(model(x, train=True, key=key), model(x))
    np.testing.assert_array_equal(model(x, key=key), model(x))
    linear = classifier(features(), dropout=0.5)
    np.testing.assert_array_equal(linear(x, train=True, key=key), linear(x))


def test_statistics_are_state_that_is_not_trained():
    _, state = init_state(classifier(features(), hidden=4), "adamw")
    assert len(jax.tree.leaves(state.batch_stats)) == 2
    assert len(jax.tree.leaves(state.params)) == 4
    assert isinstance(nnx.state(classifier(features()), nnx.BatchStat)["mean"], nnx.Variable)
