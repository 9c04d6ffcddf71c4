"""Sweeps: grid search for every method, then several seeds of the best setting."""
