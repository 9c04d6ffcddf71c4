"""Atomic files, caches, manifests and provenance of runs.

Import the modules: `from rgjax.storage.files import ...`.
"""
