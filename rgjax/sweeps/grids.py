"""The paper's grids (its appendix A): what `sweep()` of a config file yields.

A point is a dict: the `method`, perhaps the `variant` of it, and the fields that the grid sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from rgjax.config import METHODS

Point = dict[str, Any]

LOSS_GRIDS: dict[str, dict[str, Sequence]] = {
    "focal": {"loss.gamma": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)},
    "ldam": {"loss.max_m": (0.0, 0.5, 1.0), "loss.s": (10.0, 20.0, 30.0)},
    "la": {"loss.tau": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)},
}

OF_SENTENCES = tuple(method for method in METHODS if method != "dsmt")  # which makes images

# What a variant of a method is: its name stands in tables, its fields overrule the command line.
VARIANTS: dict[str, Point] = {
    "random groups": {"regroup.clustering": "random"},
    "balanced K-means": {"regroup.clustering": "balanced"},
    "normalised cut": {"regroup.clustering": "spectral"},
    "random projection": {"encoder.name": "projection"},
}


def points(regrouping: Mapping[str, Sequence], *, methods: Sequence[str] = tuple(METHODS)) -> Iterator[Point]:
    """The grid of each method. Those that regroup search `regrouping` and have their losses' default settings, the
    others search their loss's grid; a method without either is one point."""
    for method in methods:
        for chosen in combinations(regrouping if method.startswith("rg") else LOSS_GRIDS.get(method, {})):
            yield {"method": method} | chosen


def ablations(regrouping: Mapping[str, Sequence], *, variants: Sequence[str] = tuple(VARIANTS)) -> Iterator[Point]:
    """RG with other groups (its figures 8 a and b): the same search in each."""
    for variant in variants:
        for chosen in combinations(regrouping):
            yield {"method": "rg", "variant": variant} | chosen


def combinations(grid: Mapping[str, Sequence]) -> Iterator[Point]:
    """Every way to take a value for each field."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
