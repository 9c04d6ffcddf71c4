"""Layers against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.models.layers import BatchNorm, Conv, CosineHead, LinearHead


def test_batch_norm_normalizes_and_keeps_torchs_running_statistics():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (16, 4, 4, 5))
    norm = BatchNorm(5)
    y = np.asarray(norm(x, train=True))
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-4)
    flat = np.asarray(x).reshape(-1, 5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * flat.var(axis=0, ddof=1), rtol=1e-4)


def test_batch_norm_evaluates_with_running_statistics():
    norm = BatchNorm(2)
    norm.mean[...], norm.var[...] = jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0])
    x = jnp.ones((1, 1, 1, 2))
    expected = (np.ones(2) - [1, 2]) / np.sqrt(np.array([4, 9]) + 1e-5)
    np.testing.assert_allclose(norm(x, train=False)[0, 0, 0], expected, rtol=1e-5)


def test_convolution_weights_are_he_normal_by_fan_out():
    conv = Conv(64, 128, 3, 1, rng=np.random.default_rng(0))
    assert np.asarray(conv.kernel[...]).std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_linear_head_weights_are_within_torchs_bounds():
    head = LinearHead(400, 10, rng=np.random.default_rng(0))
    for draw in (head.kernel[...], head.bias[...]):
        assert np.abs(draw).max() <= 0.05
    assert np.asarray(head.kernel[...]).std() == pytest.approx(0.1 / 12**0.5, rel=0.03)


def test_cosine_head_gives_cosines_and_finite_gradients_at_zero():
    head = CosineHead(8, 3, rng=np.random.default_rng(0))
    x = jax.random.normal(jax.random.key(0), (4, 8))
    w = np.asarray(head.kernel[...])
    expected = np.asarray(x) @ w / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=0)[None]
    np.testing.assert_allclose(head(x), expected, rtol=1e-4, atol=1e-6)
    gradient = jax.grad(lambda x: head(x).sum())(jnp.zeros((1, 8)))
    assert np.isfinite(gradient).all()
