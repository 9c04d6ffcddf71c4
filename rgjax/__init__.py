"""Regrouping (RG) for imbalanced classification, in JAX and Flax."""

import rgjax.edges.start  # noqa: F401 (first, for its effect)
