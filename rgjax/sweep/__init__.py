"""Sweeps: what is to be run, where it runs, and what came of it."""
