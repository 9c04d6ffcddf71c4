"""Sweeps: grid search for every method, then training of the selected settings on several seeds."""
