"""The course of a sweep: start what is to be run, choose when a grid is complete, go on from whatever is there."""

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from rgjax.config import TRACED, identity
from rgjax.errors import UserError
from rgjax.storage.files import digest, write_json
from rgjax.sweep.launchers import Handle, Launcher
from rgjax.sweep.plan import Group, Plan, Point, Run, best, resolve
from rgjax.sweep.worker import failure, record_failure

_POLL = 0.2  # seconds


class Record:
    """sweep.json: how the sweep was asked for, how many runs it has, and what was chosen. A choice once made stays.

    Several sweeps may share a folder: each writes what is its own under a lock.
    """

    def __init__(self, plan: Plan, asked: dict, command: str):
        """Raises UserError where the folder holds runs of a sweep that was `asked` for otherwise, or whose config files
        were others."""
        self._path = plan.root / "sweep.json"
        begun = any(plan.root.glob("*/*/run.json"))
        with self._open() as content:
            known = content.get("asked", asked) if begun else asked
            for name in known | asked:
                theirs, ours = known.get(name), asked.get(name)
                if theirs != ours:
                    said = f"without {name}" if theirs is None else f"with {name}={theirs!r}"
                    raise UserError(f"{plan.root} holds a sweep {said}, not {ours!r}: use another --workdir")
            content |= {"asked": asked, "command": command, "select": plan.select}
            for group in plan.groups:
                method = self._method(content, group)
                base = digest(json.dumps([identity(resolve(group, plan.given)), group.grid], sort_keys=True))
                if begun and method.get("base", base) != base:
                    raise UserError(
                        f"{group.file}: the settings or the grid of {group.label} have changed since the sweep in "
                        f"{plan.root} began: use another --workdir"
                    )
                tuning, reported = plan.count(group)
                method |= {"variant": group.variant, "base": base, "tuning": tuning, "reported": reported}
                method.setdefault("chosen", None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[dict]:
        """The content, written back when the block ends well."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_suffix(".lock")):
            content = json_object(self._path, "remove it, and the choices are made anew")
            yield content
            write_json(self._path, content)

    def _method(self, content: dict, group: Group) -> dict:
        study = content.setdefault("studies", {}).setdefault(group.study, {"config": group.file, "methods": {}})
        return study["methods"].setdefault(group.label, {})

    def chosen(self, group: Group) -> Point | None:
        """The group's setting; None where the choice is still to be made."""
        if len(group.grid) == 1:
            return group.grid[0]
        return self._method(json_object(self._path, "remove it"), group).get("chosen")

    def choose(self, group: Group, point: Point) -> None:
        with self._open() as content:
            method = self._method(content, group)
            method["chosen"] = method["chosen"] or point


def json_object(path: Path, way_out: str) -> dict:
    """The object in a JSON file, empty where there is no file. Raises UserError where it is damaged."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: {way_out}")
    return content


@dataclass(frozen=True)
class Outcome:
    """How many runs are done, the errors of those that are not, and the groups that nothing was chosen for."""

    done: int
    failed: dict[Path, str]
    undecided: list[str]


@dataclass
class Course:
    """A sweep under way. A run that fails is tried `retries` times more, unless its settings are to blame; up to
    `population` runs that allow it are trained as one program; of the finished runs that are not to `keep` the
    checkpoints are removed. A setting is chosen when each of the grid has a result or is to blame for having none, or,
    with `accept_failures`, none at all."""

    plan: Plan
    record: Record
    retries: int
    population: int
    keep: Callable[[Run], bool]
    accept_failures: bool
    bar: tqdm
    _failures: Counter[Path] = field(default_factory=Counter)
    _lasting: set[Path] = field(default_factory=set)  # settings that fail whenever they are tried
    _reached: dict[Path, int] = field(default_factory=dict)  # checkpoints when their jobs began
    _done: set[Path] = field(default_factory=set)
    _jobs: list[tuple[Handle, list[Run], float]] = field(default_factory=list)  # since when, in seconds of the clock

    def carry_out(self, make_launcher: Callable[[], Launcher]) -> Outcome:
        """Run all that is not done; a launcher is made when there is something to do."""
        launcher = None
        try:
            while True:
                if todo := self._todo():
                    launcher = launcher or make_launcher()
                    self._start(launcher, todo)
                if not self._jobs:
                    break
                self._wait()
        finally:
            if launcher is not None:
                launcher.close()
        failed = {path: failure(path)["error"] for path in self._failures if path not in self._done}
        undecided = [group.label for group in self.plan.groups if self.record.chosen(group) is None]
        return Outcome(len(self._done), failed, undecided)

    def _todo(self) -> list[Run]:
        """The runs to be started now; those that have ended are taken note of."""
        busy = {run.workdir for _, job, _ in self._jobs for run in job}
        todo = []
        for run in self._wanted():
            if run.workdir in self._done or run.workdir in busy:
                continue
            if run.done:
                self._done.add(run.workdir)
                self.bar.update()
                if not self.keep(run):
                    shutil.rmtree(run.workdir / "checkpoints", ignore_errors=True)
            elif not self._given_up(run):
                todo.append(run)
        return todo

    def _wanted(self) -> list[Run]:
        """The runs that are known by now to belong to the sweep."""
        wanted = []
        for group in self.plan.groups:
            tuning = self.plan.tuning_runs(group)
            point = self.record.chosen(group)
            if point is None and all(run.done or self._is_out(run) for run in tuning):
                point = best(self.plan, group)
                if point is not None:
                    self.record.choose(group, point)
            wanted += tuning
            if point is not None:
                wanted += self.plan.reported_runs(group, point)
        return wanted

    def _given_up(self, run: Run) -> bool:
        return run.workdir in self._lasting or self._failures[run.workdir] > self.retries

    def _is_out(self, run: Run) -> bool:
        """Whether the grid is complete without the run."""
        return self._given_up(run) and (run.workdir in self._lasting or self.accept_failures)

    def _start(self, launcher: Launcher, runs: Sequence[Run]) -> None:
        for run in runs:
            run.write()
            self._reached[run.workdir] = newest_checkpoint(run.workdir)
        jobs = as_jobs(runs, self.population)
        now = time.time()
        handles = launcher.submit([[str(run.workdir.absolute()) for run in job] for job in jobs])
        self._jobs += [(handle, job, now) for handle, job in zip(handles, jobs, strict=True)]

    def _wait(self) -> None:
        """Until a job has ended."""
        ended = []
        while not ended:
            self._show()
            time.sleep(_POLL)
            ended = [entry for entry in self._jobs if entry[0].done()]
        self._jobs = [entry for entry in self._jobs if entry not in ended]
        for handle, job, _ in ended:
            cut_short = handle.exception()
            for run in job:
                os.listdir(run.workdir)  # a network's file system looks again whether there is a result
                if run.done:
                    continue
                if newest_checkpoint(run.workdir) == self._reached[run.workdir]:  # else its time was up: it goes on
                    self._failures[run.workdir] += 1
                if cut_short is not None:
                    record_failure(run.workdir, str(cut_short) or type(cut_short).__name__, lasting=False)
                if failure(run.workdir)["lasting"]:
                    self._failures[run.workdir] += 1
                    self._lasting.add(run.workdir)

    def _show(self) -> None:
        running = sum(len(job) for _, job, since in self._jobs if begun(job[0].workdir, since))
        failed = sum(path not in self._done for path in self._failures)
        self.bar.set_postfix_str(f"{running} running" + (f", {failed} failed" if failed else ""), refresh=False)
        self.bar.update(0)


def newest_checkpoint(workdir: Path) -> int:
    """Its step, 0 where there is none."""
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


def begun(workdir: Path, since: float) -> bool:
    """Whether a worker, wherever it is, has taken a run in hand since then (seconds of the clock)."""
    try:
        return (workdir / "log.txt").stat().st_mtime >= since - 1
    except OSError:
        return False


def as_jobs(runs: Sequence[Run], population: int) -> list[list[Run]]:
    """Runs as jobs: those that differ in traced settings alone together, up to `population`."""

    def program(run: Run) -> str:
        return json.dumps({name: value for name, value in identity(run.config).items() if name not in TRACED})

    if population == 1:
        return [[run] for run in runs]
    jobs = []
    for _, alike in groupby(sorted(runs, key=program), program):
        members = list(alike)
        jobs += [members[i : i + population] for i in range(0, len(members), population)]
    return jobs
