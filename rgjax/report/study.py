"""The numbers of a study: means over seeds, what is best, paired differences, settings and their budget."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from scipy.special import stdtrit

from rgjax.report.runs import Label, Plan, Run, shown

Column: TypeAlias = tuple[str, str]  # ("BA", "") or ("AP", class)

BA: Column = ("BA", "")
STATUSES = ("done", "running", "pending", "failed", "damaged")


@dataclass(frozen=True)
class Score:
    """Mean and sample standard deviation (None for n = 1) of a score over runs."""

    mean: float
    std: float | None
    n: int
    best: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - (self.std or 0), self.mean + (self.std or 0)

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f}" + ("" if self.std is None else f"±{100 * self.std:.2f}")


@dataclass(frozen=True)
class Line:
    """A row of the paper's table: scores by column (BA, then the classes), None where nothing is known."""

    label: Label
    n: int
    planned: int
    scores: dict[Column, Score | None]

    @property
    def count(self) -> str:
        return str(self.n) if self.n >= self.planned else f"{self.n} of {self.planned}"


@dataclass(frozen=True)
class Difference:
    """Method minus CE over the seeds that both have, with a 95 % Student-t interval (None for one pair)."""

    label: Label
    mean: float
    interval: tuple[float, float] | None
    n: int

    def __str__(self) -> str:
        bounds = "" if self.interval is None else " [{:+.1f}, {:+.1f}]".format(*(100 * x for x in self.interval))
        return f"{100 * self.mean:+.1f}{bounds}"


@dataclass(frozen=True)
class Choice:
    """The settings that a method's reported runs have, and how many runs found them."""

    label: Label
    settings: tuple[str, ...]
    tuned: int
    planned: int

    @property
    def tells(self) -> bool:
        """Whether anything was tuned or set."""
        return bool(self.planned or any(self.settings))

    @property
    def budget(self) -> str:
        return str(self.tuned) if self.tuned >= self.planned else f"{self.tuned} of {self.planned}"


@dataclass(frozen=True)
class Study:
    """The runs of one data set and, where a sweep planned them, how many there are to be: label -> stage -> runs."""

    name: str
    runs: Sequence[Run]
    plan: Plan = field(default_factory=dict)

    @property
    def data_set(self) -> str:
        return next((run.row["dataset"] for run in self.runs if run.row["dataset"]), self.name)

    @property
    def counts(self) -> dict[str, int]:
        """The classes, in their order, and how many rows the whole data set has of each."""
        found: dict[str, int] = {}
        for run in self.runs:
            for name, count in run.counts.items():
                found.setdefault(name, count)
        return found

    @property
    def labels(self) -> list[Label]:
        return sorted({run.label for run in self.runs if run.row["method"]} | set(self.plan), key=lambda x: x.order)

    def of(self, label: Label, stage: int) -> list[Run]:
        return [run for run in self.runs if run.label == label and run.stage == stage]

    def finished(self, label: Label, stage: int = 2) -> list[Run]:
        """One run of each setting and seed: a repetition is no further sample."""
        runs = [run for run in self.of(label, stage) if run.status == "done"]
        return list({run.identity: run for run in reversed(runs)}.values())[::-1]

    def planned(self, label: Label, stage: int) -> int:
        return max(self.plan.get(label, {}).get(stage, 0), len(self.of(label, stage)))

    @property
    def selected_by(self) -> str:
        return ", ".join(sorted({run.row["selected_by"] for run in self.runs if run.row["selected_by"]}))


def studies(runs: Iterable[Run], plans: dict[str, Plan]) -> list[Study]:
    """By name: those that the sweep planned and those that runs belong to."""
    by_study: dict[str, list[Run]] = {name: [] for name in plans}
    for run in runs:
        by_study.setdefault(run.row["study"], []).append(run)
    return [Study(name, of_study, plans.get(name, {})) for name, of_study in sorted(by_study.items())]


def statuses(all_studies: Iterable[Study]) -> dict[str, int]:
    """How many runs are done, running, ...; those that are planned and have no folder yet are pending."""
    counts: Counter[str] = Counter()
    absent = 0
    for study in all_studies:
        counts.update(run.status for run in study.runs)
        absent -= sum(run.status == "damaged" and None in (run.row["method"], run.row["stage"]) for run in study.runs)
        of_labels = ((label, stage) for label in study.labels for stage in (1, 2))
        absent += sum(study.planned(*which) - len(study.of(*which)) for which in of_labels)
    counts["pending"] += max(0, absent)  # a damaged run may be one that is missed
    return {status: counts[status] for status in STATUSES}


def state(counts: dict[str, int]) -> str:
    """complete, or incomplete and why."""
    total, others = sum(counts.values()), {name: n for name, n in counts.items() if n and name != "done"}
    if not others:
        return f"complete: {total} of {total} runs done"
    return ", ".join([f"incomplete: {counts['done']} of {total} runs done", *(f"{n} {k}" for k, n in others.items())])


def score_of(values: Iterable[float | None]) -> Score | None:
    """None where no value is defined."""
    known = np.array([value for value in values if value is not None], float)
    if not len(known):
        return None
    return Score(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None, len(known))


def table(study: Study) -> list[Line]:
    """The paper's Table 3: one line a label, over the finished runs of stage 2."""
    lines = []
    for label in study.labels:
        runs = study.finished(label)
        scores = {BA: score_of(run.row["test_ba"] for run in runs)}
        scores |= {("AP", name): score_of(run.test_ap.get(name) for run in runs) for name in study.counts}
        if planned := study.planned(label, 2):
            lines.append(Line(label, len(runs), planned, scores))
    return mark_best(lines)


def mark_best(lines: Sequence[Line]) -> list[Line]:
    """Mark, in each column of two scores or more, the best mean and every score whose interval meets the best one's."""
    marked = [dict(line.scores) for line in lines]
    for column in lines[0].scores if lines else ():
        known = [score for line in lines if (score := line.scores[column])]
        if len(known) < 2:
            continue
        top = max(score.mean for score in known)
        best = [score.interval for score in known if score.mean == top]
        for scores in marked:
            if score := scores[column]:
                low, high = score.interval
                meets = any(low <= upper and lower <= high for lower, upper in best)
                scores[column] = replace(score, best=meets)
    return [replace(line, scores=scores) for line, scores in zip(lines, marked, strict=True)]


def caption(study: Study, lines: Sequence[Line]) -> str:
    counts = sorted({line.n for line in lines}) or [0]
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    seeds = "seed" if n == "1" else "seeds"
    rule = f" Hyper-parameters chosen by {study.selected_by}." if study.selected_by else ""
    return (
        f"{study.data_set}, n = {n} {seeds}: balanced accuracy (BA) and average precision (AP) of each class on the "
        "test set. Below a class stands its number of examples in the whole data set. ± is the sample standard "
        "deviation over seeds (none for n = 1). Bold: the best mean, and all whose interval of mean ± standard "
        f"deviation meets that of the best.{rule}"
    )


def differences(study: Study, column: str) -> list[Difference]:
    """Each label's score minus CE's on the same seeds; `column` is test_ba or test_macro_ap."""
    ce = _by_seeds(study.finished(Label("ce")), column)
    found = []
    for label in study.labels:
        own = _by_seeds(study.finished(label), column)
        pairs = np.array([own[seeds] - ce[seeds] for seeds in own.keys() & ce.keys()])
        if label == Label("ce") or not len(pairs):
            continue
        mean, interval = float(pairs.mean()), None
        if len(pairs) > 1:
            half = float(stdtrit(len(pairs) - 1, 0.975) * pairs.std(ddof=1) / np.sqrt(len(pairs)))
            interval = mean - half, mean + half
        found.append(Difference(label, mean, interval, len(pairs)))
    return found


def _by_seeds(runs: Iterable[Run], column: str) -> dict[tuple[int, int], float]:
    values = defaultdict(list)
    for run in runs:
        if run.row[column] is not None:
            values[run.seeds].append(run.row[column])
    return {seeds: float(np.mean(found)) for seeds, found in values.items()}


def choices(study: Study) -> list[Choice]:
    """What each label's reported runs were set to. More than one setting for a label means that its mean mixes them."""
    found = []
    for label in study.labels:
        settings = {shown(run.settings): None for run in study.of(label, 2)}
        found.append(Choice(label, tuple(settings), len(study.finished(label, 1)), study.planned(label, 1)))
    return found
