"""Sweep scheduler: starts runs, selects settings, retries failures, resumes."""

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from tqdm import tqdm

from rgjax.config import Point, identity, program_settings
from rgjax.errors import UserError
from rgjax.storage.files import digest, newest_step, read_json_object, write_json
from rgjax.sweep.launchers import Handle, Launcher
from rgjax.sweep.plan import RunSpec, Selection, SweepPlan, Variant, resolve
from rgjax.sweep.worker import read_failure, write_failure

_POLL = 0.2  # seconds
HEADS_PER_JOB = 16  # so that a sweep has several jobs for each worker


class SweepState:
    """sweep.json: the command, the number of runs and the selected points.

    Several sweeps may share a folder: each updates its own entries under a lock. A selected point never changes.
    """

    def __init__(self, plan: SweepPlan, request: dict, command: str):
        """Open or create the file.

        Args:
            plan: the sweep.
            request: flags that must not change while the folder holds runs, name -> value; None if unset.
            command: the command line, for the report.

        Raises:
            UserError: if the folder holds runs with other flags, or if a config file has changed since they began.
        """
        self._path = plan.root / "sweep.json"
        has_runs = any(plan.root.glob("*/*/run.json"))
        with self._open() as content:
            if has_runs:
                _require_equal(plan.root, content.get("asked", request), request)
            content |= {"asked": request, "command": command, "select": plan.select}
            for variant in plan.variants:
                entry = self._entry(content, variant)
                # This digest of settings and grid changes if the config file changes.
                base = digest(json.dumps([identity(resolve(variant, plan.overrides)), variant.grid], sort_keys=True))
                if has_runs and entry.get("base", base) != base:
                    raise UserError(
                        f"--workdir={plan.root}: {variant.file} has changed since this sweep began (settings or grid "
                        f"of {variant.label}); use another --workdir"
                    )
                tuning, reported = plan.count(variant)
                entry |= {"variant": variant.name, "base": base, "tuning": tuning, "reported": reported}
                entry["repeated"] = variant.repeated
                entry.setdefault("chosen", None)
                entry.setdefault("chosen_by_fold", {})

    @contextlib.contextmanager
    def _open(self) -> Iterator[dict]:
        """The content under a lock, written back if the block raises nothing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_suffix(".lock")):
            content = _read(self._path)
            yield content
            write_json(self._path, content)

    def _entry(self, content: dict, variant: Variant) -> dict:
        study = content.setdefault("studies", {}).setdefault(variant.study, {"config": variant.file, "methods": {}})
        return study["methods"].setdefault(variant.label, {})

    def selected(self, variant: Variant, selection: Selection) -> Point | None:
        """The variant's selected point, with folds that of a fold; None before."""
        points = variant.searched
        if len(points) == 1:
            return points[0]
        entry = self._entry(_read(self._path), variant)
        return entry.get("chosen_by_fold", {}).get(selection.name) if selection.name else entry.get("chosen")

    def select(self, variant: Variant, selection: Selection, point: Point) -> Point:
        """Record a selection; return it, or the one that another process made first."""
        with self._open() as content:
            entry = self._entry(content, variant)
            if selection.name:
                return entry["chosen_by_fold"].setdefault(selection.name, point)
            entry["chosen"] = entry["chosen"] or point
            return entry["chosen"]


def _read(path: Path) -> dict:
    try:
        return read_json_object(path) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is corrupted ({error}); remove it, and settings are selected again") from error


def with_recorded_repeats(plan: SweepPlan) -> SweepPlan | None:
    """The plan without the points that sweep.json calls repeated.

    None if the sweep has not begun with all of the variants.
    """
    studies, variants = _read(plan.root / "sweep.json").get("studies", {}), []
    for variant in plan.variants:
        entry = studies.get(variant.study, {}).get("methods", {}).get(variant.label)
        if entry is None:
            return None
        variants.append(replace(variant, repeated=tuple(entry.get("repeated", ()))))  # earlier versions dropped none
    return replace(plan, variants=tuple(variants))


def _require_equal(root: Path, before: dict, now: dict) -> None:
    for name in before | now:
        if before.get(name) != now.get(name):
            old, new = ("unset" if value is None else repr(value) for value in (before.get(name), now.get(name)))
            raise UserError(f"--workdir={root}: holds a sweep with {name}={old}, not {new}; use another --workdir")


@dataclass(frozen=True)
class SchedulerOptions:
    """Options of the scheduler.

    Attributes:
        retries: restarts of a failed run; a run that failed because of its settings is never restarted.
        population: most runs that may train as one program; None: `HEADS_PER_JOB` heads on features, or one network.
        accept_failures: whether to select even if a run of the grid failed for a reason other than its settings.
        keeps: whether to keep the checkpoints of a finished run.
    """

    retries: int
    population: int | None
    accept_failures: bool
    keeps: Callable[[RunSpec], bool]


@dataclass
class VariantRuns:
    """The runs of a variant, or of one of its folds.

    Those of stage 2 exist once a point is selected.
    """

    variant: Variant
    selection: Selection
    tuning: list[RunSpec]
    point: Point | None = None
    reported: list[RunSpec] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """The number of finished runs, the errors by workdir, the runs by variant."""

    done: int
    failed: dict[Path, str]
    variants: list[VariantRuns]

    @property
    def undecided(self) -> list[str]:
        """Labels of the variants without a selected point."""
        return list(dict.fromkeys(runs.variant.label for runs in self.variants if runs.point is None))


class Job(NamedTuple):
    """Runs that were submitted as one job, at `started` (seconds since the epoch)."""

    handle: Handle
    runs: list[RunSpec]
    started: float


@dataclass
class _Progress:
    """Events since the command started; all other state is read from the workdirs."""

    jobs: list[Job] = field(default_factory=list)
    done: set[Path] = field(default_factory=set)
    failures: Counter[Path] = field(default_factory=Counter)
    permanent: set[Path] = field(default_factory=set)  # failures because of the settings, which no retry can change
    steps_before: dict[Path, int] = field(default_factory=dict)  # the newest checkpoint's step when the job started


class Scheduler:
    """Runs a sweep to its end, or resumes it from the files in its folder."""

    def __init__(self, plan: SweepPlan, state: SweepState, options: SchedulerOptions, bar: tqdm):
        self._plan, self._state, self._options, self._bar = plan, state, options, bar
        self._variants = [
            VariantRuns(variant, selection, plan.tuning_runs(variant, selection))
            for variant in plan.variants
            for selection in plan.seeds.selections
        ]
        self._progress = _Progress()

    def run(self, make_launcher: Callable[[], Launcher]) -> Outcome:
        """Start all runs that are not done; a launcher is made only if one is needed."""
        progress, launcher = self._progress, None
        try:
            while True:
                self._select_points()
                if ready := self._ready_runs():
                    launcher = launcher or make_launcher()
                    self._start(launcher, ready)
                if not progress.jobs:
                    break
                for job in self._wait():
                    self._record(job)
        finally:
            if launcher is not None:
                launcher.close()
        failed = {path: read_failure(path)["error"] for path in progress.failures if path not in progress.done}
        return Outcome(len(progress.done), failed, self._variants)

    def _select_points(self) -> None:
        """Select a point for each variant whose grid is complete; plan its stage 2."""
        for runs in self._variants:
            if runs.point is not None:
                continue
            point = self._state.selected(runs.variant, runs.selection)
            if point is None and all(run.done or self._excluded(run) for run in runs.tuning):
                best = self._plan.best(runs.variant, runs.tuning)
                point = None if best is None else self._state.select(runs.variant, runs.selection, best)
            if point is not None:
                runs.point = point
                runs.reported = self._plan.reported_runs(runs.variant, runs.selection, point)

    def _ready_runs(self) -> list[RunSpec]:
        """The runs to start now. Counts runs with a result as done."""
        progress, ready = self._progress, []
        busy = {run.workdir for job in progress.jobs for run in job.runs}
        for run in (run for runs in self._variants for run in (*runs.tuning, *runs.reported)):
            if run.workdir in progress.done or run.workdir in busy:
                continue
            if run.done:
                progress.done.add(run.workdir)
                self._bar.update()
                if not self._options.keeps(run):
                    shutil.rmtree(run.workdir / "checkpoints", ignore_errors=True)
            elif not self._exhausted(run):
                ready.append(run)
        return ready

    def _exhausted(self, run: RunSpec) -> bool:
        """Whether a failed run will not be restarted."""
        progress = self._progress
        return run.workdir in progress.permanent or progress.failures[run.workdir] > self._options.retries

    def _excluded(self, run: RunSpec) -> bool:
        """Whether to select a point without this run's result."""
        return self._exhausted(run) and (run.workdir in self._progress.permanent or self._options.accept_failures)

    def _start(self, launcher: Launcher, runs: Sequence[RunSpec]) -> None:
        for run in runs:
            run.write(only_scores=run.is_head and not self._options.keeps(run))
            self._progress.steps_before[run.workdir] = _newest_step(run)
        jobs = as_jobs(runs, self._options.population)
        now = time.time()
        handles = launcher.submit([[str(run.workdir.absolute()) for run in job] for job in jobs])
        self._progress.jobs += [Job(handle, job, now) for handle, job in zip(handles, jobs, strict=True)]

    def _wait(self) -> list[Job]:
        """Wait until a job has ended; return all that have."""
        progress, ended = self._progress, []
        while not ended:
            self._show()
            time.sleep(_POLL)
            ended = [job for job in progress.jobs if job.handle.done()]
        progress.jobs = [job for job in progress.jobs if job not in ended]
        return ended

    def _record(self, job: Job) -> None:
        """Count the failures of a job that has ended."""
        error = job.handle.exception()
        for run in job.runs:
            os.listdir(run.workdir)  # refreshes a network file system's view of the folder
            if run.done:
                continue
            if error is not None:
                write_failure(run.workdir, str(error) or type(error).__name__, lasting=False)
            permanent = read_failure(run.workdir)["lasting"]
            # A run with a new checkpoint was cut off by a time limit, so resuming it does not count as a retry.
            if permanent or _newest_step(run) == self._progress.steps_before[run.workdir]:
                self._progress.failures[run.workdir] += 1
            if permanent:
                self._progress.permanent.add(run.workdir)

    def _show(self) -> None:
        """Update the progress bar."""
        progress = self._progress
        running = sum(len(job.runs) for job in progress.jobs if _has_started(job))
        failed = sum(path not in progress.done for path in progress.failures)
        self._bar.set_postfix_str(f"{running} running" + (f", {failed} failed" if failed else ""), refresh=False)
        self._bar.update(0)


def _newest_step(run: RunSpec) -> int:
    return newest_step(run.workdir / "checkpoints")


def _has_started(job: Job) -> bool:
    """Whether a worker has written to the job's log since the job was submitted."""
    try:
        return (job.runs[0].workdir / "log.txt").stat().st_mtime >= job.started - 1
    except OSError:
        return False


def as_jobs(runs: Sequence[RunSpec], population: int | None) -> list[list[RunSpec]]:
    """Group runs into jobs of up to `population` runs, which train as one program.

    The runs of a job have the same `config.program_settings`. The largest jobs come first.
    """
    programs: dict[str, list[RunSpec]] = {}
    for run in runs:
        programs.setdefault(json.dumps(program_settings(run.config)), []).append(run)
    jobs = []
    for members in programs.values():
        size = population or (HEADS_PER_JOB if members[0].is_head else 1)
        jobs += [members[i : i + size] for i in range(0, len(members), size)]
    return sorted(jobs, key=len, reverse=True)
