"""Predict with a finished run, and export it to files that need no rgjax."""
