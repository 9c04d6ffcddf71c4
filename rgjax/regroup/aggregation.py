"""Class logits from pseudo-class logits: the aggregation of the run, the report and the exported predictor."""

from typing import Any

import numpy as np

AGGREGATIONS = ("max", "sum")


def aggregate(logits: Any, parent: np.ndarray, how: str) -> Any:
    """Class logits [B, C] of pseudo-class logits [B, K], an array of NumPy or JAX, in their own precision.

    "max" takes the largest logit of a class's pseudo-classes. "sum" takes the log of their summed probabilities,
    logsumexp, so that the size of the logits does not grow with the number of pseudo-classes. Figures are computed from
    float64 on the host (`Regrouping.class_logits`).

    Args:
        logits: pseudo-class logits [B, K].
        parent: the class [K] of each pseudo-class.
        how: one of `AGGREGATIONS`.
    """
    xp = logits.__array_namespace__()  # numpy, or jax.numpy without an import of it: it takes a second
    columns = []
    for c in range(int(parent.max()) + 1):
        members = logits[:, np.flatnonzero(parent == c)]
        top = members.max(axis=1)
        if how == "sum" and members.shape[1] > 1:
            finite = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # log 0 = -inf has no difference to itself
            with np.errstate(divide="ignore"):
                top = finite + xp.log(xp.exp(members - finite[:, None]).sum(axis=1))
        columns.append(top)
    return xp.stack(columns, axis=1)
