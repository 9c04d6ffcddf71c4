"""Regrouping (RG) for imbalanced classification, in JAX and Flax."""
