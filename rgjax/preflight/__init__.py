"""Ahead of time: the training program compiled for hardware that is not there, and what can be read from it."""
