"""Class logits from pseudo-class logits, for runs, reports and predictors."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer

AGGREGATIONS = ("max", "sum")


def class_logits(logits: Any, parent: Integer[np.ndarray, " K"], how: str) -> Float[np.ndarray, "B C"]:
    """Class logits in float64 of pseudo-class logits [B, K], for all metrics.

    Args:
        logits: of the pseudo-classes.
        parent: the class of each pseudo-class.
        how: one of `AGGREGATIONS`.

    Raises:
        ValueError: if the shapes do not fit together or `how` is unknown.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or logits.shape[1] != len(parent) or how not in AGGREGATIONS:
        raise ValueError(f"logits {list(logits.shape)}, how={how!r}; needs [B, {len(parent)}], one of {AGGREGATIONS}")
    return aggregate(logits, parent, how)


def aggregate(logits: Float[Any, "B K"], parent: Integer[np.ndarray, " K"], how: str) -> Float[Any, "B C"]:
    """Class logits of pseudo-class logits, arrays of NumPy or JAX of any precision.

    "max": the largest logit among the pseudo-classes of each class. "sum": logsumexp of their logits, the logarithm of
    their summed probabilities up to a constant, so that the logits do not grow with the number of pseudo-classes.
    """
    xp = logits.__array_namespace__()  # numpy, or jax.numpy without importing it here: reports do without JAX
    columns = []
    for c in range(int(parent.max()) + 1):
        members = logits[:, np.flatnonzero(parent == c)]
        top = members.max(axis=1)
        if how == "sum" and members.shape[1] > 1:
            offset = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # avoids -inf - -inf = nan
            with np.errstate(divide="ignore"):
                top = offset + xp.log(xp.exp(members - offset[:, None]).sum(axis=1))
        columns.append(top)
    return xp.stack(columns, axis=1)
