"""The course of a sweep: start what is to be run, choose when a grid is complete, go on from whatever is there."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from rgjax.config import TRACED, identity
from rgjax.errors import UserError
from rgjax.storage import write_json
from rgjax.sweeps.launchers import Handle, Launcher
from rgjax.sweeps.plan import Group, Plan, Point, Run, best
from rgjax.sweeps.worker import record_failure

_POLL = 0.2  # seconds


class Record:
    """sweep.json: how the sweep was asked for, how many runs it has, and what was chosen. A choice once made stays."""

    def __init__(self, plan: Plan, asked: dict, command: str):
        """Raises UserError where the folder holds a sweep that was `asked` for otherwise."""
        self._path = plan.root / "sweep.json"
        begun = any(plan.root.glob("*/*/run.json"))
        try:
            known = json.loads(self._path.read_text()) if begun and self._path.exists() else {}
            before = known.get("asked", asked)
        except (ValueError, AttributeError) as error:
            raise UserError(f"{self._path} is damaged: remove it, and the choices are made anew") from error
        for name in before | asked:
            theirs, ours = before.get(name), asked.get(name)
            if theirs != ours:
                raise UserError(
                    f"{plan.root} holds a sweep with {name}={theirs!r}, not {ours!r}: use another --workdir"
                )
        self._content = known or {"asked": asked, "studies": {}}
        self._content |= {"command": command, "select": plan.select}
        for group in plan.groups:
            study = self._content["studies"].setdefault(group.study, {"config": group.file, "methods": {}})
            tuning, reported = plan.count(group)
            method = study["methods"].setdefault(group.label, {"variant": group.variant, "chosen": None})
            method |= {"tuning": tuning, "reported": reported}
        write_json(self._path, self._content)

    def _method(self, group: Group) -> dict:
        return self._content["studies"][group.study]["methods"][group.label]

    def chosen(self, group: Group) -> Point | None:
        """The group's setting; None where the choice is still to be made."""
        return group.grid[0] if len(group.grid) == 1 else self._method(group)["chosen"]

    def choose(self, group: Group, point: Point) -> None:
        self._method(group)["chosen"] = point
        write_json(self._path, self._content)


@dataclass(frozen=True)
class Outcome:
    """How many runs are done, and of those that are not the errors by workdir."""

    done: int
    failed: dict[Path, str]


@dataclass
class Course:
    """A sweep under way. A run that fails is tried `retries` times more; up to `population` runs that allow it are
    trained as one program; of the finished runs that are not to `keep` the checkpoints are removed."""

    plan: Plan
    record: Record
    retries: int
    population: int
    keep: Callable[[Run], bool]
    bar: tqdm
    _failures: Counter[Path] = field(default_factory=Counter)
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
        failed = {path: error_of(path) for path in self._failures if path not in self._done}
        return Outcome(len(self._done), failed)

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
            if point is None and all(run.done or self._given_up(run) for run in tuning):
                point = best(self.plan, group)
                if point is not None:
                    self.record.choose(group, point)
            wanted += tuning
            if point is not None:
                wanted += self.plan.reported_runs(group, point)
        return wanted

    def _given_up(self, run: Run) -> bool:
        return self._failures[run.workdir] > self.retries

    def _start(self, launcher: Launcher, runs: Sequence[Run]) -> None:
        for run in runs:
            run.write()
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
                if not run.done:
                    self._failures[run.workdir] += 1
                    if cut_short is not None:
                        record_failure(run.workdir, str(cut_short) or type(cut_short).__name__)

    def _show(self) -> None:
        running = sum(len(job) for _, job, since in self._jobs if begun(job[0].workdir, since))
        failed = sum(path not in self._done for path in self._failures)
        self.bar.set_postfix_str(f"{running} running" + (f", {failed} failed" if failed else ""), refresh=False)
        self.bar.update(0)


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


def error_of(workdir: Path) -> str:
    path = workdir / "failure.json"
    return json.loads(path.read_text())["error"] if path.exists() else "it left neither a result nor an error"
