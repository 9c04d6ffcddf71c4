"""The numbers of a study: its runs, mean scores, progress and chosen settings."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from rgjax.data.notes import recorded_notes
from rgjax.report.runs import Entry, RunRecord, StudyPlan, format_settings

Column: TypeAlias = tuple[str, str]  # ("BA", "") or ("AP", class)

# The columns before the AP of each class, with the keys of the run's scores
OVERALL: dict[Column, str] = {
    ("BA", ""): "test_ba",
    ("tuned BA", ""): "test_tuned_ba",  # at the thresholds of decision.json
    ("macro AP", ""): "test_macro_ap",
}
CE = Entry("ce")
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
class TableRow:
    """A row of the score table: `OVERALL`, then AP by class; None for no score."""

    entry: Entry
    n: int
    planned: int
    scores: dict[Column, Score | None]

    @property
    def count(self) -> str:
        return str(self.n) if self.n >= self.planned else f"{self.n} of {self.planned}"


@dataclass(frozen=True)
class ChosenSettings:
    """The settings of an entry's reported runs, and the number of its tuning runs."""

    entry: Entry
    settings: tuple[str, ...]
    tuned: int
    planned: int

    @property
    def tuned_or_set(self) -> bool:
        return bool(self.planned or any(self.settings))

    @property
    def budget(self) -> str:
        return str(self.tuned) if self.tuned >= self.planned else f"{self.tuned} of {self.planned}"


@dataclass(frozen=True)
class Study:
    """The runs on one data set, and the planned number of runs."""

    name: str
    runs: Sequence[RunRecord]
    plan: StudyPlan = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        return next((run.row["dataset"] for run in self.runs if run.row["dataset"]), self.name)

    @property
    def counts(self) -> dict[str, int]:
        """Examples of each class in the whole data set, in the order of the classes."""
        counts: dict[str, int] = {}
        for run in self.runs:
            for name, count in run.counts.items():
                counts.setdefault(name, count)
        return counts

    @cached_property
    def entries(self) -> list[Entry]:
        return sorted({run.entry for run in self.runs if run.row["method"]} | set(self.plan), key=lambda x: x.order)

    def runs_of(self, entry: Entry, stage: int) -> list[RunRecord]:
        return [run for run in self.runs if run.entry == entry and run.stage == stage]

    def finished(self, entry: Entry, stage: int = 2) -> list[RunRecord]:
        """Finished runs, one per setting and seed: a repeated run is not a new sample."""
        return self._finished.get((entry, stage), [])

    @cached_property
    def _finished(self) -> dict[tuple[Entry, int], list[RunRecord]]:
        finished = defaultdict(list)
        for run in {run.identity: run for run in reversed(self.runs) if run.status == "done"}.values():
            finished[run.entry, run.stage].insert(0, run)
        return finished

    def planned(self, entry: Entry, stage: int) -> int:
        return max(self.plan.get(entry, {}).get(stage, 0), len(self.runs_of(entry, stage)))

    @property
    def repetitions(self) -> set[tuple]:
        """(split, seed) of the finished runs."""
        return {(run.split, run.row["seed"]) for entry in self.entries for run in self.finished(entry)}

    @property
    def num_splits(self) -> int:
        return len({split for split, _ in self.repetitions})

    @cached_property
    def overlap(self) -> float:
        """n_test / n_train, the mean over finished runs."""
        rows = [run.row for entry in self.entries for run in self.finished(entry)]
        return float(np.mean([row["test_n"] / row["train_n"] for row in rows]))

    @property
    def design(self) -> str:
        """What the reported runs repeat, such as "5 seeds, each with its own split"."""
        splits, n = {split for split, _ in self.repetitions}, len(self.repetitions)
        folds, draws = {fold for _, fold in splits if fold is not None}, {seed for seed, _ in splits}
        if len(folds) > 1:
            return f"{len(folds)} folds" + (f", drawn {len(draws)} times" if len(draws) > 1 else "")
        if len(splits) == 1:
            return f"{n} seeds on one split" if n > 1 else "one run each"
        return f"{n} seeds, each with its own split" if len(splits) == n else f"{n} seeds on {len(splits)} splits"

    @property
    def unit(self) -> str:
        """What a run of an entry is: a seed or a fold."""
        return "folds" if any(run.row["fold"] is not None for run in self.runs) else "seeds"

    @property
    def notes(self) -> list[str]:
        """The notes on the data, each once; with the number of runs if not all have it."""
        started = [run.provenance for run in self.runs if run.provenance]
        counts = Counter(note for recorded in started for note in dict.fromkeys(recorded_notes(recorded)))
        return [note if n == len(started) else f"{note} ({n} of {len(started)} runs)" for note, n in counts.items()]

    @property
    def selected_by(self) -> str:
        return ", ".join(sorted({run.row["selected_by"] for run in self.runs if run.row["selected_by"]}))


def make_studies(runs: Iterable[RunRecord], plans: dict[str, StudyPlan]) -> list[Study]:
    """All studies that have runs or plans, sorted by name."""
    by_study: dict[str, list[RunRecord]] = {name: [] for name in plans}
    for run in runs:
        by_study.setdefault(run.row["study"], []).append(run)
    return [Study(name, study_runs, plans.get(name, {})) for name, study_runs in sorted(by_study.items())]


# Progress


def count_statuses(studies: Iterable[Study]) -> dict[str, int]:
    """The number of runs by status; planned runs without a folder are pending."""
    counts: Counter[str] = Counter()
    absent = 0
    for study in studies:
        counts.update(run.status for run in study.runs)
        # A damaged run of unknown method or stage is probably a planned one: do not count it twice.
        absent -= sum(run.status == "damaged" and None in (run.row["method"], run.row["stage"]) for run in study.runs)
        stages = ((entry, stage) for entry in study.entries for stage in (1, 2))
        absent += sum(study.planned(*stage) - len(study.runs_of(*stage)) for stage in stages)
    counts["pending"] += max(0, absent)
    return {status: counts[status] for status in STATUSES}


def describe_progress(counts: dict[str, int]) -> str:
    """ "complete: ..." or "incomplete: ..." with the number of runs by status."""
    total, unfinished = sum(counts.values()), {name: n for name, n in counts.items() if n and name != "done"}
    if not unfinished:
        return f"complete: {total} of {total} runs done"
    return ", ".join(
        [f"incomplete: {counts['done']} of {total} runs done", *(f"{n} {k}" for k, n in unfinished.items())]
    )


# Scores


def score_of(values: Iterable[float | None]) -> Score | None:
    """Mean and deviation of the values that are defined; None if there are none."""
    defined = np.array([value for value in values if value is not None], float)
    if not len(defined):
        return None
    return Score(float(defined.mean()), float(defined.std(ddof=1)) if len(defined) > 1 else None, len(defined))


def score_table(study: Study) -> list[TableRow]:
    """The paper's Table 3, with macro AP and tuned BA: a row for each entry.

    The scores are over the finished runs of stage 2.
    """
    rows = []
    for entry in study.entries:
        runs = study.finished(entry)
        scores = {column: score_of(run.row[key] for run in runs) for column, key in OVERALL.items()}
        scores |= {("AP", name): score_of(run.test_ap.get(name) for run in runs) for name in study.counts}
        if planned := study.planned(entry, 2):
            rows.append(TableRow(entry, len(runs), planned, scores))
    if not any(row.scores["tuned BA", ""] for row in rows):  # runs of older versions
        for row in rows:
            del row.scores["tuned BA", ""]
    return mark_best(rows)


def overall_titles(rows: Iterable[TableRow]) -> list[str]:
    """The titles of a score table's columns before the classes."""
    return list(dict.fromkeys(title for row in rows for title, name in row.scores if not name))


def mark_best(rows: Sequence[TableRow]) -> list[TableRow]:
    """Mark the best scores of each column.

    These are the best mean and all scores whose intervals overlap its own. A column with a single score has no mark.
    """
    marked = [dict(row.scores) for row in rows]
    for column in rows[0].scores if rows else ():
        column_scores = [score for row in rows if (score := row.scores[column])]
        if len(column_scores) < 2:
            continue
        top = max(score.mean for score in column_scores)
        best = [score.interval for score in column_scores if score.mean == top]
        for scores in marked:
            if score := scores[column]:
                low, high = score.interval
                overlaps = any(low <= best_high and best_low <= high for best_low, best_high in best)
                scores[column] = replace(score, best=overlaps)
    return [replace(row, scores=scores) for row, scores in zip(rows, marked, strict=True)]


def table_caption(study: Study, rows: Sequence[TableRow]) -> str:
    counts = sorted({row.n for row in rows}) or [0]
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    runs = study.unit.removesuffix("s") if n == "1" else study.unit
    rule = f" Hyper-parameters were chosen by {study.selected_by}." if study.selected_by else ""
    tuned = any(("tuned BA", "") in row.scores for row in rows)
    thresholds = "; tuned: at the thresholds that each run chose on its validation set" if tuned else ""
    return (
        f"{study.dataset}, n = {n} {runs}: balanced accuracy (BA{thresholds}) and average precision (AP) of each class "
        "on the test set. Below each class: its number of examples in the whole data set. ±: sample standard deviation "
        f"over {study.unit} (none for n = 1). Bold: the best mean, and every score whose interval of mean ± standard "
        f"deviation overlaps that of the best.{rule}"
    )


def chosen_settings(study: Study) -> list[ChosenSettings]:
    """The settings of each entry's reported runs.

    If an entry has several settings, its mean score is over all of them.
    """
    chosen = []
    for entry in study.entries:
        settings = {format_settings(run.settings): None for run in study.runs_of(entry, 2)}
        tuned, planned = len(study.finished(entry, 1)), study.planned(entry, 1)
        chosen.append(ChosenSettings(entry, tuple(settings), tuned, planned))
    return chosen
