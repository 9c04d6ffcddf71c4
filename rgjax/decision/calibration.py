"""Calibration by likelihood: a temperature, and biases of the classes besides."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax, softmax

_SPREAD = 3.0  # standard deviation a priori of the logarithm of T / standard deviation of the logits
_LIMIT = 12.0  # of log T on either side
_BIAS_SPREAD = 2.0  # standard deviation of a bias a priori
_LEAST = -50.0  # of logits / T; smaller ones make no difference


def best_temperature(logits: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, " n"]) -> float:
    """The temperature of the highest likelihood (Guo et al. 2017).

    Where all examples are correct, the likelihood rises as T falls to 0. So log T has a weak normal prior, which
    changes T by far less than its standard error elsewhere.
    """
    scale = logits.std() or 1.0
    z = logits / scale
    truth = z[np.arange(len(labels)), labels].sum()

    def slope(log_t: float) -> float:
        """The derivative of the negative log-posterior by log T."""
        expected = (softmax(z * np.exp(-log_t), axis=1) * z).sum()
        return log_t / _SPREAD**2 + np.exp(-log_t) * (truth - expected)

    log_t: Any = next((end for end in (-_LIMIT, _LIMIT) if slope(end) * end <= 0), None)
    if log_t is None:
        log_t = brentq(slope, -_LIMIT, _LIMIT, xtol=1e-9)
    return float(scale * np.exp(log_t))


def bias_corrected(
    logits: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, " n"], temperature: float
) -> tuple[float, Float[np.ndarray, " C"], Float[np.ndarray, "n C"]]:
    """Bias-corrected temperature scaling (Alexandari, Kundaje & Shrikumar 2020).

    The class probabilities softmax(logits / T + biases) of the highest posterior; normal priors keep the biases of
    classes with few examples near 0.

    Args:
        logits: of the classes, the largest of each example is 0.
        labels: the true classes.
        temperature: `best_temperature(logits, labels)`, where the search begins.

    Returns:
        T, the biases, and the probabilities.
    """
    z = np.maximum(logits / temperature, _LEAST)
    truth = np.eye(z.shape[1])[labels]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = np.exp(x[0]) * z
        log_p = log_softmax(scaled + x[1:], axis=1)
        errors = np.exp(log_p) - truth
        gradient = np.append((errors * scaled).sum() + x[0] / _SPREAD**2, errors.sum(axis=0) + x[1:] / _BIAS_SPREAD**2)
        prior = x[0] ** 2 / _SPREAD**2 + (x[1:] ** 2).sum() / _BIAS_SPREAD**2
        return prior / 2 - log_p[truth > 0].sum(), gradient

    def curvature(x: np.ndarray) -> np.ndarray:
        scaled = np.exp(x[0]) * z
        p = softmax(scaled + x[1:], axis=1)
        mean = (p * scaled).sum(axis=1, keepdims=True)
        mixed = (p * (scaled - mean)).sum(axis=0)
        scale = (p * scaled * (scaled - mean)).sum() + ((p - truth) * scaled).sum() + 1 / _SPREAD**2
        biases = np.diag(p.sum(axis=0) + 1 / _BIAS_SPREAD**2) - p.T @ p
        return np.block([[np.array([[scale]]), mixed[None]], [mixed[:, None], biases]])

    start = np.zeros(z.shape[1] + 1)
    x = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-4}).x
    return temperature * float(np.exp(-x[0])), x[1:], softmax(np.exp(x[0]) * z + x[1:], axis=1)
