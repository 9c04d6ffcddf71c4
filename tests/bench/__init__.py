"""The benchmark suite: `python -m tests.bench --json FILE` from the root of the repository."""
