"""Losses for imbalanced classification, with traced hyper-parameters.

A loss maps logits [B, K] and labels [B] to losses [B]. To add one, write its function here and its entry in `LOSSES`,
and add its name, its fields and its method to `config/`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer

AnyArray: TypeAlias = Array | np.ndarray


def cross_entropy(logits: Float[AnyArray, "B K"], labels: Integer[AnyArray, " B"]) -> Float[Array, " B"]:
    """CE = -log softmax(z)_y."""
    return -_pick(jax.nn.log_softmax(logits), labels)


def focal(
    logits: Float[AnyArray, "B K"], labels: Integer[AnyArray, " B"], gamma: Float[ArrayLike, ""]
) -> Float[Array, " B"]:
    """(1 - p_y)^gamma * CE, without alpha (Lin et al. 2017); gamma = 0 is CE.

    1 - p_y is computed from the log-probabilities of the other classes, which keeps its precision as p_y nears 1.
    """
    log_p = jax.nn.log_softmax(logits)
    log_rest = jax.nn.logsumexp(jnp.where(_is_label(log_p, labels), -jnp.inf, log_p), axis=1)
    return jnp.exp(gamma * jnp.maximum(log_rest, -80.0)) * -_pick(log_p, labels)


def ldam(
    logits: Float[AnyArray, "B K"],
    labels: Integer[AnyArray, " B"],
    unit_margins: Float[AnyArray, " K"],
    max_m: Float[ArrayLike, ""],
    s: Float[ArrayLike, ""],
) -> Float[Array, " B"]:
    """CE(s (z - m_y e_y)), m = max_m * unit_margins (Cao et al. 2019, eq. 12, 13).

    Args:
        logits: cosines, of a head of normalized weights and features.
        labels: the true classes.
        unit_margins: n^(-1/4) of the classes, scaled to a maximum of 1.
        max_m: margin of the smallest class.
        s: scale of the logits.
    """
    margins = max_m * unit_margins[labels]
    one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return cross_entropy(s * (logits - margins[:, None] * one_hot), labels)


def logit_adjusted(
    logits: Float[AnyArray, "B K"],
    labels: Integer[AnyArray, " B"],
    prior: Float[AnyArray, " K"],
    tau: Float[ArrayLike, ""],
) -> Float[Array, " B"]:
    """CE(z + log(prior^tau + 1e-12)) (Menon et al. 2021, eq. 10).

    Args:
        logits: z.
        labels: the true classes.
        prior: shares of the classes among the training examples.
        tau: strength of the adjustment; 0 is CE, 1 balanced softmax.
    """
    return cross_entropy(logits + jnp.log(prior**tau + 1e-12)[None], labels)


def adjust_logits(
    logits: Float[AnyArray, "B K"], prior: Float[AnyArray, " K"], tau: Float[ArrayLike, ""]
) -> Float[AnyArray, "B K"]:
    """Post-hoc adjustment: subtracts what `logit_adjusted` adds in training."""
    return logits - jnp.log(prior**tau + 1e-12)[None]


def weighted_mean(losses: Float[Array, " B"], weights: Float[Array, " B"], axis: str | None = None) -> Float[Array, ""]:
    """sum(w l) / sum(w), as torch reduces a weighted loss.

    With a mesh `axis`, this device's summand of the mean over the examples of all devices.
    """
    total = weights.sum()
    return (weights * losses).sum() / (total if axis is None else jax.lax.psum(total, axis))


def _pick(values, labels):
    # Not by indexing, whose gradient is a scatter: on GPUs, those have no fixed order.
    return jnp.where(_is_label(values, labels), values, 0.0).sum(axis=1)


def _is_label(values, labels):
    return jax.nn.one_hot(labels, values.shape[1], dtype=bool)


@dataclass(frozen=True)
class ClassStats:
    """Examples of each (pseudo-)class, and the weights and margins from them.

    Attributes:
        counts: of the pseudo-classes, or for each of them those of its class.
        examples: in all; the sum of `counts` if None.
    """

    counts: Integer[np.ndarray, " K"]
    examples: int | None = None

    def __post_init__(self):
        if not (self.counts > 0).all():
            raise ValueError("every class needs at least one example")

    @property
    def inverse_weights(self) -> Float[np.ndarray, " K"]:
        """1 / n, scaled to sum to K."""
        return _sum_to_count(1.0 / self.counts)

    def effective_weights(self, beta: float = 0.9999) -> Float[np.ndarray, " K"]:
        """(1 - beta) / (1 - beta^n) (Cui et al. 2019), scaled to sum to K."""
        return _sum_to_count((1.0 - beta) / (1.0 - np.power(beta, self.counts)))

    @property
    def prior(self) -> Float[np.ndarray, " K"]:
        """n / N."""
        return (self.counts / (self.examples or self.counts.sum())).astype(np.float32)

    @property
    def unit_margins(self) -> Float[np.ndarray, " K"]:
        """n^(-1/4), scaled to a maximum of 1."""
        margins = self.counts**-0.25
        return (margins / margins.max()).astype(np.float32)


def _sum_to_count(weights) -> np.ndarray:
    return (weights * len(weights) / weights.sum()).astype(np.float32)


@dataclass(frozen=True)
class Loss:
    """A loss and all that derives from it. `config` is the section `loss` of a config.

    Attributes:
        function: (logits [B, K], labels [B], **arguments) -> losses [B].
        head: the network's last layer.
        arguments: the traced hyper-parameters; arrays are [K].
        weights: the class weights [K] of the mean over a batch.
        scale: from the network's outputs to the logits that `function` applies a softmax to.
    """

    function: Callable[..., Any]
    head: str = "linear"
    arguments: Callable[[Any, ClassStats], dict[str, Any]] = lambda config, stats: {}
    weights: Callable[[ClassStats], np.ndarray] = lambda stats: np.ones(len(stats.counts), np.float32)
    scale: Callable[[Any], float] = lambda config: 1.0


LOSSES = {
    "ce": Loss(cross_entropy),
    "wce": Loss(cross_entropy, weights=lambda stats: stats.inverse_weights),
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
    """The loss that a config trains by; for post-hoc logit adjustment, cross-entropy."""
    return LOSSES["ce" if adjusts_posthoc(config) else config["name"]]


def adjusts_posthoc(config: Any) -> bool:
    """Whether logits are adjusted at test time instead of in training."""
    return config["name"] == "la" and config["posthoc"]


def class_stats(config: Any, counts: Integer[np.ndarray, " K"], parent: Integer[np.ndarray, " K"]) -> ClassStats:
    """Statistics of the pseudo-classes or, by `config.stats`, of their classes.

    With those of the classes, each class has the same weight in all, however many pseudo-classes share it: the logits
    that minimize the loss are log p(k|x) - log(n_c / N) + const, of which "sum" makes log p(x|c) + const. Those of the
    pseudo-classes balance the pseudo-classes, so that a class counts in proportion to their number. Nor does a margin
    depend on the split: it bounds the error of a class, which the boundary to other classes alone makes, by the n_c
    examples on its side of it (Cao et al. 2019, section 3).

    Args:
        config: the section `loss`.
        counts: examples of each pseudo-class among those that batches are drawn from.
        parent: the class of each pseudo-class.
    """
    if config["stats"] == "class":
        return ClassStats(np.bincount(parent, weights=counts).astype(int)[parent], int(counts.sum()))
    return ClassStats(np.maximum(counts, 1))  # a sampler may miss a pseudo-class


def scale_logits(config: Any, stats: ClassStats, logits: Any) -> Any:
    """Logits [n, K] as the loss scales them, post-hoc adjusted if that is configured."""
    logits = logits * np.float32(loss_of(config).scale(config))
    return adjust_logits(logits, stats.prior, np.float32(config["tau"])) if adjusts_posthoc(config) else logits
