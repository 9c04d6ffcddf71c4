"""Losses for imbalanced classification: pure, un-reduced, every hyper-parameter traced.

Shapes: logits [B, K] float32, labels [B] int32 -> losses [B].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def cross_entropy(logits, labels):
    """-log softmax(z)_y."""
    return -_pick(jax.nn.log_softmax(logits), labels)


def focal(logits, labels, gamma):
    """(1 - p_y)^gamma * CE, without alpha (Lin et al. 2017); gamma = 0 is CE.

    (1 - p) is taken from the other classes' log-probabilities, so that it keeps its digits as p nears 1.
    """
    log_p = jax.nn.log_softmax(logits)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    log_rest = jax.nn.logsumexp(jnp.where(own, -jnp.inf, log_p), axis=1)
    return jnp.exp(gamma * jnp.maximum(log_rest, -80.0)) * -_pick(log_p, labels)


def ldam(logits, labels, unit_margins, max_m, s):
    """CE(s (z - m_y e_y)) with margins m = max_m * unit_margins [K] (Cao et al. 2019, eq. 12 and 13)."""
    margins = max_m * unit_margins[labels]
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return cross_entropy(s * (logits - margins[:, None] * own), labels)


def logit_adjusted(logits, labels, prior, tau):
    """CE(z + log(prior^tau + 1e-12)) (Menon et al. 2021, eq. 10); tau = 0 is CE, tau = 1 balanced softmax."""
    return cross_entropy(logits + jnp.log(prior**tau + 1e-12)[None], labels)


def adjust_logits(logits, prior, tau):
    """The post-hoc form of `logit_adjusted`: what it adds in training is subtracted at test time."""
    return logits - jnp.log(prior**tau + 1e-12)[None]


def weighted_mean(losses, weights, axis: str | None = None):
    """sum(w l) / sum(w), torch's reduction of a weighted loss; with a mesh `axis`, this device's summand of the mean
    over the rows of all devices."""
    total = weights.sum()
    return (weights * losses).sum() / (total if axis is None else jax.lax.psum(total, axis))


def _pick(values, labels):
    return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class ClassStats:
    """Counts [K] of the (pseudo-)classes, and the weights, priors and margins derived from them (float32 [K])."""

    counts: np.ndarray

    def __post_init__(self):
        if not (np.asarray(self.counts) > 0).all():
            raise ValueError("every class needs at least one example")

    @property
    def inverse_weights(self) -> np.ndarray:
        """1 / n, scaled to sum to K."""
        return _sum_to_count(1.0 / self.counts)

    def effective_weights(self, beta: float = 0.9999) -> np.ndarray:
        """(1 - beta) / (1 - beta^n), the effective number of Cui et al. 2019, scaled to sum to K."""
        return _sum_to_count((1.0 - beta) / (1.0 - np.power(beta, self.counts)))

    @property
    def prior(self) -> np.ndarray:
        return (self.counts / self.counts.sum()).astype(np.float32)

    @property
    def unit_margins(self) -> np.ndarray:
        """n^(-1/4), scaled to a largest value of 1."""
        margins = self.counts**-0.25
        return (margins / margins.max()).astype(np.float32)


def _sum_to_count(weights) -> np.ndarray:
    return (weights * len(weights) / weights.sum()).astype(np.float32)


@dataclass(frozen=True)
class Loss:
    """A loss as the configuration names it: its function, its head, its arguments, its scale at test time."""

    function: Callable
    head: str = "linear"
    arguments: Callable[[Any, ClassStats], dict[str, Any]] = lambda config, stats: {}
    scale: Callable[[Any], float] = lambda config: 1.0


LOSSES = {
    "ce": Loss(cross_entropy),
    "wce": Loss(cross_entropy),  # its weights enter in the reduction
    "focal": Loss(focal, arguments=lambda config, stats: {"gamma": np.float32(config["gamma"])}),
    "ldam": Loss(
        ldam,
        head="cosine",
        arguments=lambda config, stats: {
            "unit_margins": stats.unit_margins,
            "max_m": np.float32(config["max_m"]),
            "s": np.float32(config["s"]),
        },
        scale=lambda config: config["s"],
    ),
    "la": Loss(
        logit_adjusted,
        arguments=lambda config, stats: {"prior": stats.prior, "tau": np.float32(config["tau"])},
    ),
}


def loss_of(config: Any) -> Loss:
    """The loss of the config's section `loss`; post-hoc logit adjustment trains by cross-entropy."""
    return LOSSES["ce" if adjusts_posthoc(config) else config["name"]]


def adjusts_posthoc(config: Any) -> bool:
    return config["name"] == "la" and config["posthoc"]


def class_stats(config: Any, regrouping: Any) -> ClassStats:
    """The counts that the loss uses: of the pseudo-classes, or of the class that each belongs to."""
    return ClassStats(regrouping.class_counts if config["stats"] == "class" else regrouping.counts)


def scale_logits(config: Any, stats: ClassStats, logits: Any) -> Any:
    """A network's outputs [n, K] as the logits that the loss saw, with a post-hoc adjustment where there is one."""
    logits = logits * np.float32(loss_of(config).scale(config))
    return adjust_logits(logits, stats.prior, np.float32(config["tau"])) if adjusts_posthoc(config) else logits
