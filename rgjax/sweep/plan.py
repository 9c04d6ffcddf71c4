"""What a sweep runs: the settings of each method, the runs of its two stages, and the choice between them.

Stage 1 trains every setting of a method once, on a seed for tuning; validation chooses. Stage 2 trains the chosen
setting on each reported seed. A method with one setting has no stage 1.
"""

import importlib.util
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rgjax import config as settings
from rgjax.config import VARIANTS, Config, Point, combinations
from rgjax.errors import UserError, unknown
from rgjax.storage import manifest
from rgjax.storage.files import digest, write_json

SELECTIONS = {"ba": "balanced accuracy", "macro_ap": "macro AP"}


@dataclass(frozen=True)
class Seeds:
    """The seed that settings are chosen on, and those that are reported. `fixed_split` keeps the data's own seed."""

    tuning: int
    reported: Sequence[int]
    fixed_split: bool

    def overrides(self, seed: int) -> Point:
        return {"seed": seed} if self.fixed_split else {"seed": seed, "data.seed": seed}


@dataclass(frozen=True)
class Group:
    """A method, or a variant of one, on one data set, with its grid: tuned by itself, and one row of a table."""

    study: str
    file: str
    method: str
    variant: str
    grid: tuple[Point, ...]

    @property
    def label(self) -> str:
        return f"{self.method} {self.variant}".strip()

    def settings(self, overrides: Mapping[str, Any]) -> Point:
        """`overrides` under what the variant fixes."""
        return {**overrides, **VARIANTS.get(self.variant, {})}


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its place and all that makes it."""

    root: Path
    group: Group
    stage: int
    seed: int
    point: Point
    given: Point
    selected_by: str

    @cached_property
    def config(self) -> Config:
        return resolve(self.group, self.given | self.point)

    @cached_property
    def run_id(self) -> str:
        return digest(json.dumps(settings.identity(self.config)))[:8]

    @property
    def workdir(self) -> Path:
        return self.root / self.group.study / f"{self.group.label.replace(' ', '-')}-{self.run_id}"

    @property
    def command(self) -> str:
        words = [f"--config={self.group.file}:{self.group.method}"]
        words += [f"--config.{name}={value}" for name, value in self.group.settings(self.given | self.point).items()]
        return shlex.join(["uv", "run", "python", "-m", "rgjax.main", *words, f"--workdir={self.workdir}"])

    @property
    def result(self) -> dict | None:
        """What the run has found; None while there is nothing, or what is there is damaged: it is concluded again."""
        return manifest.result(self.workdir)

    @property
    def done(self) -> bool:
        return self.result is not None

    def write(self) -> None:
        """Leave in the workdir what a worker and the report need to know; config.json, which makes it a run, last."""
        known = {
            "run_id": self.run_id,
            "study": self.group.study,
            "variant": self.group.variant,
            "stage": self.stage,
            "overrides": self.point,
            "selected_by": self.selected_by,
            "command": self.command,
        }
        write_json(self.workdir / "run.json", known)
        write_json(self.workdir / "config.json", json.loads(self.config.to_json()))


def load_file(path: str) -> Any:
    """The module of a config file. Raises UserError where it is none of a sweep."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--config: there is no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's own program
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(method)")
    return module


def resolve(group: Group, overrides: Mapping[str, Any]) -> Config:
    """The group's config with `overrides` (field -> value), validated."""
    try:
        config = load_file(group.file).get_config(group.method)
    except UserError:
        raise
    except Exception as error:  # the file is the user's own program
        raise UserError(f"get_config() of {group.file}: {type(error).__name__}: {error}") from error
    for name, value in group.settings(overrides).items():
        if name not in settings.FIELDS:
            raise unknown(f"field in sweep() of {group.file}:", name, settings.FIELDS)
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise UserError(f"sweep() of {group.file} gives {name} the value {value!r}: {error}") from error
    settings.validate(config)
    return config


def read_groups(file: str, given: Mapping[str, Any], *, common: Mapping[str, Sequence], quick: bool) -> list[Group]:
    """The groups that `sweep()` of a config file yields, in its order.

    Each grid is crossed with the `common` one; a field that is `given` on the command line is not searched, and
    `quick` keeps two points of each grid. A point's `config` names the config file of its data set, beside this one.
    """
    module = load_file(file)
    if not hasattr(module, "sweep"):
        raise UserError(f"{file} has no sweep(), a generator of a dict for each point of a grid: see configs/digits.py")
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in _yielded(file, module):
        base = str(Path(file).parent / point.pop("config")) if "config" in point else file
        method, variant = point.pop("method", ""), point.pop("variant", "")
        if method not in settings.METHODS:
            raise unknown(f"method in sweep() of {file}:", method, settings.METHODS)
        if variant and variant not in VARIANTS:
            raise unknown(f"variant in sweep() of {file}:", variant, VARIANTS)
        if name := next((name for name in ("seed", "data.seed") if name in point), None):
            raise UserError(f"sweep() of {file} gives {name}: seeds are the sweep's own, by --seeds")
        points = found.setdefault((base, method, variant), [])
        for more in combinations(common):
            searched = {name: value for name, value in {**point, **more}.items() if name not in given}
            if searched not in points:
                points.append(searched)
    if not found:
        raise UserError(f"sweep() of {file} yields nothing")
    return [
        Group(Path(base).stem, base, method, variant, tuple(two_of(points) if quick else points))
        for (base, method, variant), points in found.items()
    ]


def _yielded(file: str, module: Any) -> list[Point]:
    """The points of a file's `sweep()`, values of NumPy as Python's own."""
    try:
        return [
            {name: value.item() if hasattr(value, "item") else value for name, value in dict(point).items()}
            for point in module.sweep()
        ]
    except UserError:
        raise
    except Exception as error:  # the file is the user's own program
        raise UserError(f"sweep() of {file}: {type(error).__name__}: {error}") from error


def two_of(points: Sequence[Point]) -> list[Point]:
    """Two points of a grid, at its thirds."""
    if len(points) < 3:
        return list(points)
    return [points[len(points) // 3], points[2 * len(points) // 3]]


@dataclass(frozen=True)
class Plan:
    """All groups of a sweep in a folder, and how they are judged."""

    root: Path
    groups: tuple[Group, ...]
    given: Point
    seeds: Seeds
    select: str
    _known: dict[tuple, Run] = field(default_factory=dict)  # resolving a config takes milliseconds, and polls are many

    @property
    def rule(self) -> str:
        return f"validation {SELECTIONS[self.select]} on seed {self.seeds.tuning}"

    def tuning_runs(self, group: Group) -> list[Run]:
        """Stage 1: every setting, where there is a choice."""
        if len(group.grid) == 1:
            return []
        return [self._run(group, 1, self.seeds.tuning, point) for point in group.grid]

    def reported_runs(self, group: Group, point: Point) -> list[Run]:
        """Stage 2: the chosen setting, on each seed."""
        return [self._run(group, 2, seed, point) for seed in self.seeds.reported]

    def all_runs(self) -> list[Run]:
        """As many runs as the sweep will have; in stage 2 the first setting stands for the one to be chosen."""
        return [
            run
            for group in self.groups
            for run in (*self.tuning_runs(group), *self.reported_runs(group, group.grid[0]))
        ]

    def count(self, group: Group) -> tuple[int, int]:
        """Runs of the two stages."""
        return len(group.grid) if len(group.grid) > 1 else 0, len(self.seeds.reported)

    def score(self, run: Run) -> float | None:
        """What settings are chosen by; None of a run that has no result."""
        result = run.result
        return None if result is None else result["val"][self.select]

    def _run(self, group: Group, stage: int, seed: int, point: Point) -> Run:
        key = (group.study, group.label, stage, seed, json.dumps(point))
        if key not in self._known:
            point = {**point, **self.seeds.overrides(seed)}
            self._known[key] = Run(self.root, group, stage, seed, point, self.given, self.rule)
        return self._known[key]


def best(plan: Plan, group: Group) -> Point | None:
    """The group's setting of the highest score, of equals the first; None where no run has one."""
    scored = [(plan.score(run), point) for run, point in zip(plan.tuning_runs(group), group.grid, strict=True)]
    known = [(score, point) for score, point in scored if score is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None
