"""Sweep plan: the grid of each method, the runs of both stages, the selection.

Stage 1 trains every point of a grid once, on the tuning seed, and the validation score selects one. Stage 2 trains the
selected point on every reported seed. A method whose grid has one point skips stage 1. With folds, both happen inside
each fold.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rgjax import config as settings
from rgjax.command import load_file
from rgjax.config import METHODS, VARIANTS, Config, Point, combinations
from rgjax.edges.shell import shell_line
from rgjax.errors import UserError, unknown
from rgjax.storage import manifest
from rgjax.storage.files import digest, write_json

SELECTIONS = {"ba": "balanced accuracy", "macro_ap": "macro AP"}  # keys of result.json's scores
_AGGREGATE = "regroup.aggregate"


class Selection(NamedTuple):
    """Where a point is selected, and where the selected point is reported.

    Attributes:
        name: "", or that of a fold.
        tuning: the fields of the runs of stage 1 that set their seed and split.
        reported: the same for each run of stage 2.
    """

    name: str
    tuning: Point
    reported: list[Point]


@dataclass(frozen=True)
class Seeds:
    """The seed of stage 1 and the seeds of stage 2.

    With `fixed_split`, all seeds share the split drawn by `config.data.seed`. With `folds`, each reported seed draws so
    many folds, and a point is selected in each of them, by its validation: the examples that validate one fold are
    test examples of another, so a selection for all folds would have seen their labels.
    """

    tuning: int
    reported: Sequence[int]
    fixed_split: bool
    folds: int | None = None

    @property
    def selections(self) -> list[Selection]:
        """One for all seeds, or one for each fold of each seed."""
        if self.folds is None:
            return [Selection("", self._overrides(self.tuning), [self._overrides(seed) for seed in self.reported])]
        return [
            Selection(f"seed {seed}, fold {fold}", {"seed": self.tuning, **test}, [{"seed": seed, **test}])
            for seed in self.reported
            for fold in range(self.folds)
            for test in [{"data.seed": seed, "data.folds": self.folds, "data.fold": fold}]
        ]

    def _overrides(self, seed: int) -> Point:
        return {"seed": seed} if self.fixed_split else {"seed": seed, "data.seed": seed}


@dataclass(frozen=True)
class Variant:
    """A method, or a variant of one, on one data set, with its grid.

    Each variant is tuned separately and is one row of a table.

    Attributes:
        study: the data set's config file without folder and suffix; the runs' folder has this name.
        file: the path of that config file.
        method: a key of `config.METHODS`.
        name: a key of `config.VARIANTS`, or "" for the method itself.
        grid: the points to search.
        repeated: the numbers of points that make the same groups as an earlier one; they are not searched.
    """

    study: str
    file: str
    method: str
    name: str
    grid: tuple[Point, ...]
    repeated: tuple[int, ...] = ()

    @property
    def searched(self) -> list[Point]:
        """The points of the grid, each experiment once."""
        return [point for number, point in enumerate(self.grid) if number not in self.repeated]

    @property
    def label(self) -> str:
        return f"{self.method} {self.name}".strip()

    def settings(self, overrides: Mapping[str, Any]) -> Point:
        """`overrides`, updated with the fields that the variant sets."""
        return {**overrides, **VARIANTS.get(self.name, {})}


@dataclass(frozen=True)
class RunSpec:
    """One run of a sweep: its folder and all its settings.

    Attributes:
        stage: 1 for tuning, 2 for reported results.
        point: the fields that the grid, the seed and the fold set.
        overrides: the fields that the sweep's command line sets.
        selected_by: the selection rule in words, for the report.
    """

    root: Path
    variant: Variant
    stage: int
    point: Point
    overrides: Point
    selected_by: str

    @cached_property
    def config(self) -> Config:
        return resolve(self.variant, self.overrides | self.point)

    @cached_property
    def run_id(self) -> str:
        return digest(json.dumps(settings.identity(self.config)))[:8]

    @property
    def workdir(self) -> Path:
        return self.root / self.variant.study / f"{self.variant.label.replace(' ', '-')}-{self.run_id}"

    @property
    def command(self) -> str:
        """The command that trains this run alone."""
        fields = self.variant.settings(self.overrides | self.point)
        words = [f"--config={self.variant.file}:{self.variant.method}"]
        words += [f"--config.{name}={value}" for name, value in fields.items()]
        return shell_line("main", *words, f"--workdir={self.workdir}")

    @property
    def result(self) -> dict | None:
        """The content of result.json; None if there is none or it is corrupted."""
        return manifest.result(self.workdir)

    @property
    def done(self) -> bool:
        return self.result is not None

    @property
    def is_head(self) -> bool:
        """Whether it trains a head on features, which takes seconds."""
        return self.config.model.name in settings.FROZEN

    def write(self, *, only_scores: bool = False) -> None:
        """Write run.json for the report and the worker, then config.json for the worker.

        In this order, because a folder with config.json counts as a run.

        Args:
            only_scores: as in `Trial`.
        """
        description = {
            "run_id": self.run_id,
            "study": self.variant.study,
            "variant": self.variant.name,
            "stage": self.stage,
            "overrides": self.point,
            "selected_by": self.selected_by,
            "command": self.command,
        } | ({"only_scores": True} if only_scores else {})
        write_json(self.workdir / "run.json", description)
        write_json(self.workdir / "config.json", json.loads(self.config.to_json()))


def resolve(variant: Variant, overrides: Mapping[str, Any]) -> Config:
    """The variant's config with `overrides` (field -> value), validated."""
    module = load_file(variant.file)
    with _running(f"get_config() of {variant.file}"):
        config = module.get_config(variant.method)
    network, fields = config.model.name, variant.settings(overrides)
    for name, value in fields.items():
        if name not in settings.FIELDS:
            raise unknown(f"field in sweep() of {variant.file}:", name, settings.FIELDS)
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise UserError(f"sweep() of {variant.file}: {name}={value!r}: {error}") from error
    settings.prepare_training(config, network, fields)
    settings.validate(config)
    return config


def read_variants(
    file: str, overrides: Mapping[str, Any], *, common: Mapping[str, Sequence], quick: bool
) -> list[Variant]:
    """The variants that `sweep()` of a config file yields, in its order.

    A yielded point has a `method`, fields, optionally a `variant`, and optionally `config`: another config file in the
    same folder, for another data set.

    Args:
        file: path of the config file.
        overrides: fields that the command line sets; they are not searched.
        common: a grid (field -> values) that each variant's grid is crossed with.
        quick: keep two points of each grid.

    Raises:
        UserError: if the file has no `sweep()`, or if a yielded point is invalid.
    """
    module = load_file(file)
    if not hasattr(module, "sweep"):
        raise UserError(f"{file} has no sweep(); define a generator of grid points (dicts), as in configs/digits.py")
    grids: dict[tuple[str, str, str], list[Point]] = {}
    for point in _yielded_points(file, module):
        base = str(Path(file).parent / point.pop("config")) if "config" in point else file
        method, name = point.pop("method", ""), point.pop("variant", "")
        _check_point(file, method, name, point)
        grid = grids.setdefault((base, method, name), [])
        for extra in combinations(common):
            searched = {field: value for field, value in {**point, **extra}.items() if field not in overrides}
            if searched not in grid:
                grid.append(searched)
    if not grids:
        raise UserError(f"sweep() of {file} yields no grid point")
    return [
        Variant(Path(base).stem, base, method, name, tuple(_two_of(grid) if quick else grid))
        for (base, method, name), grid in grids.items()
    ]


def _yielded_points(file: str, module: Any) -> list[Point]:
    """The points that `sweep()` yields, with NumPy scalars converted to Python's."""
    with _running(f"sweep() of {file}"):
        return [
            {name: value.item() if hasattr(value, "item") else value for name, value in dict(point).items()}
            for point in module.sweep()
        ]


def _check_point(file: str, method: str, name: str, point: Point) -> None:
    """Raise UserError for an unknown method or variant, and for seeds."""
    if method not in settings.METHODS:
        raise unknown(f"method in sweep() of {file}:", method, settings.METHODS)
    if name and name not in VARIANTS:
        raise unknown(f"variant in sweep() of {file}:", name, VARIANTS)
    for field in ("seed", "data.seed", "data.folds", "data.fold"):
        if field in point:
            raise UserError(f"sweep() of {file}: {field}={point[field]}: a sweep sets it; use --seeds or --folds")


@contextlib.contextmanager
def _running(what: str) -> Iterator[None]:
    """Turn any exception of the user's config file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {error}") from error


def _two_of(grid: Sequence[Point]) -> Sequence[Point]:
    """The points at one third and two thirds of a grid."""
    return grid if len(grid) < 3 else [grid[len(grid) // 3], grid[2 * len(grid) // 3]]


def of_methods(variants: Sequence[Variant], methods: Sequence[str]) -> list[Variant]:
    """The variants of the given methods, or all variants if `methods` is empty.

    Raises UserError for an unknown method.
    """
    known = dict.fromkeys(variant.method for variant in variants)
    for name in methods:
        if name not in known:
            raise unknown("method", name, known)
    return [variant for variant in variants if not methods or variant.method in methods]


@dataclass(frozen=True)
class SweepPlan:
    """All variants of a sweep, its seeds, and the score that selects points.

    Each call makes new RunSpecs, whose configs take milliseconds to resolve: call once and keep them.
    """

    root: Path
    variants: tuple[Variant, ...]
    overrides: Point
    seeds: Seeds
    select: str

    @property
    def rule(self) -> str:
        where = f"on seed {self.seeds.tuning}" if self.seeds.folds is None else "inside each fold"
        return f"validation {SELECTIONS[self.select]} {where}"

    def tuning_runs(self, variant: Variant, selection: Selection) -> list[RunSpec]:
        """Stage 1: every point that is searched, if there are several."""
        points = variant.searched
        return [self._run(variant, 1, point | selection.tuning) for point in points] if len(points) > 1 else []

    def reported_runs(self, variant: Variant, selection: Selection, point: Point) -> list[RunSpec]:
        """Stage 2: the selected point, on every reported seed, or on its fold."""
        return [self._run(variant, 2, point | fields) for fields in selection.reported]

    def all_runs(self) -> list[RunSpec]:
        """All runs of the sweep, to estimate its cost and for tests.

        Stage 2 trains the first point of each grid here, because none is selected yet.
        """
        return [
            run
            for variant in self.variants
            for each in self.seeds.selections
            for run in (*self.tuning_runs(variant, each), *self.reported_runs(variant, each, variant.grid[0]))
        ]

    def count(self, variant: Variant) -> tuple[int, int]:
        """The number of runs in stage 1 and in stage 2."""
        points, selections = len(variant.searched), self.seeds.selections
        return len(selections) * points if points > 1 else 0, sum(len(each.reported) for each in selections)

    @property
    def total(self) -> int:
        return sum(sum(self.count(variant)) for variant in self.variants)

    def best(self, variant: Variant, tuning: Sequence[RunSpec]) -> Point | None:
        """The point with the highest validation score; of equal scores, the first.

        One run tells the scores under both aggregations, so the point includes the better one, unless the grid or the
        command line sets it. None if no tuning run has a result.
        """
        scores = []
        for point, run in zip(variant.searched, tuning, strict=True):
            if (result := run.result) is None:
                continue
            scores.append((result["val"][self.select], point))
            if METHODS[variant.method].regroups and _AGGREGATE not in point | self.overrides:
                by_aggregation = result.get("val_by_aggregation", {})  # results of earlier versions lack it
                scores += [(val[self.select], {**point, _AGGREGATE: how}) for how, val in by_aggregation.items()]
        return max(scores, key=lambda pair: pair[0])[1] if scores else None

    def _run(self, variant: Variant, stage: int, point: Point) -> RunSpec:
        return RunSpec(self.root, variant, stage, point, self.overrides, self.rule)
