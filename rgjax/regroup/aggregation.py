"""Class logits from pseudo-class logits, for runs, reports and predictors."""

from typing import Any

import numpy as np

AGGREGATIONS = ("max", "sum")


def class_logits(logits: np.ndarray, parent: np.ndarray, how: str) -> np.ndarray:
    """Class logits [B, C] float64 of pseudo-class logits [B, K], for all figures.

    Args:
        logits: pseudo-class logits [B, K].
        parent: the class [K] of each pseudo-class.
        how: one of `AGGREGATIONS`.

    Raises:
        ValueError: if the shapes do not fit together or `how` is unknown.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or logits.shape[1] != len(parent) or how not in AGGREGATIONS:
        raise ValueError(f"logits {list(logits.shape)}, how={how!r}; needs [B, {len(parent)}], one of {AGGREGATIONS}")
    return aggregate(logits, parent, how)


def aggregate(logits: Any, parent: np.ndarray, how: str) -> Any:
    """Class logits [B, C] of pseudo-class logits [B, K], in their own precision.

    The arrays are NumPy's or JAX's.

    "max" takes the largest logit of a class's pseudo-classes. "sum" takes the log of their summed probabilities,
    logsumexp, so that the size of the logits does not grow with the number of pseudo-classes.
    """
    xp = logits.__array_namespace__()  # numpy, or jax.numpy without importing it here: reports do without JAX
    columns = []
    for c in range(int(parent.max()) + 1):
        members = logits[:, np.flatnonzero(parent == c)]
        top = members.max(axis=1)
        if how == "sum" and members.shape[1] > 1:
            finite = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # avoids -inf - -inf = nan
            with np.errstate(divide="ignore"):
                top = finite + xp.log(xp.exp(members - finite[:, None]).sum(axis=1))
        columns.append(top)
    return xp.stack(columns, axis=1)
