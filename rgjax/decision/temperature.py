"""The temperature of calibrated probabilities."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import brentq
from scipy.special import softmax

_SPREAD = 3.0  # standard deviation of log T a priori
_LIMIT = 12.0  # of log T


def best_temperature(logits: Float[np.ndarray, "n C"], labels: Integer[np.ndarray, " n"]) -> float:
    """The temperature of the highest likelihood (Guo et al. 2017).

    Where all examples are correct, the likelihood rises as T falls to 0. So log T has a weak normal prior, which
    changes T by far less than its standard error elsewhere.
    """
    truth = logits[np.arange(len(labels)), labels].sum()

    def slope(log_t: float) -> float:
        """The derivative of the negative log-posterior by log T."""
        scaled = logits * np.exp(-log_t)
        expected = (softmax(scaled, axis=1) * logits).sum()
        return log_t / _SPREAD**2 + np.exp(-log_t) * (truth - expected)

    log_t: Any = brentq(slope, -_LIMIT, _LIMIT, xtol=1e-9)
    return float(np.exp(log_t))
