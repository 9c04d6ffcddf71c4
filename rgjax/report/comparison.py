"""Which method is ahead, by how much, how surely: pairs of runs, ranks of methods."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias

import numpy as np

from rgjax.report.runs import Entry
from rgjax.report.statistics import Estimate, Ranks, estimate_mean, holm, rank_methods
from rgjax.report.study import CE, Study

METRICS = {"test_macro_ap": "macro AP", "test_ba": "BA", "test_tuned_ba": "tuned BA"}

Repetition: TypeAlias = tuple  # (split, seed), equal in the runs that are a pair


@dataclass(frozen=True)
class Comparison:
    """The first entry minus the second by metric, paired over their common runs."""

    first: Entry
    second: Entry
    differences: Mapping[str, Estimate]  # key of `METRICS` -> difference, without metrics that no pair has

    @property
    def n(self) -> int:
        return max(difference.n for difference in self.differences.values())


def metrics_of(study: Study) -> dict[str, str]:
    """`METRICS` without those that no run has: older ones have no tuned BA."""
    runs = [run for entry in study.entries for run in study.finished(entry)]
    return {name: title for name, title in METRICS.items() if any(run.row[name] is not None for run in runs)}


# Over the runs of a study


def scores_of(study: Study, entry: Entry, metric: str) -> dict[Repetition, float]:
    """The score of each repetition; a mean where the entry has several settings."""
    values = defaultdict(list)
    for run in study.finished(entry):
        if run.row[metric] is not None:
            values[run.split, run.row["seed"]].append(run.row[metric])
    return {repetition: float(np.mean(scores)) for repetition, scores in values.items()}


def estimate(study: Study, scores: Mapping[Repetition, float]) -> Estimate:
    """The mean of scores or differences over splits, or over seeds of one split.

    The seeds of a split are averaged first; scores on several splits are correlated, see `estimate_mean`.
    """
    by_split = defaultdict(list)
    for (split, _), score in scores.items():
        by_split[split].append(score)
    if len(by_split) < 2:
        return estimate_mean(list(scores.values()))
    return estimate_mean([float(np.mean(values)) for values in by_split.values()], study.overlap)


def means(study: Study, entry: Entry) -> dict[str, Estimate]:
    """The mean of each metric over the finished runs of an entry.

    In a study of one run each, the intervals are those of the run: for more test examples.
    """
    by_metric = {}
    for metric in METRICS:
        if scores := scores_of(study, entry, metric):
            by_metric[metric] = estimate(study, scores).within(0, 1)
            row = study.finished(entry)[0].row
            if len(study.repetitions) == 1 and row[f"{metric}_low"] is not None:
                interval = row[f"{metric}_low"], row[f"{metric}_high"]
                by_metric[metric] = replace(by_metric[metric], interval=interval)
    return by_metric


def planned_comparisons(study: Study) -> list[Comparison]:
    """Each entry against CE, and regrouping against the same method without it.

    The p-values of a metric are adjusted for these comparisons.
    """
    pairs = [(entry, CE) for entry in study.entries if entry != CE]
    pairs += [(entry, Entry(entry.baseline)) for entry in study.entries if entry.regroups]
    scores = {metric: {entry: scores_of(study, entry, metric) for entry in study.entries} for metric in METRICS}
    return _compare(study, scores, dict.fromkeys(pairs))


def all_pairs(study: Study) -> list[Comparison]:
    """Every pair of `contestants`, on the runs that all have; adjusted for all pairs."""
    scores = {metric: shared_scores(study, metric) for metric in METRICS}
    return _compare(study, scores, combinations(contestants(study), 2))


def contestants(study: Study) -> list[Entry]:
    """The entries that have finished runs, without ablations of other entries."""
    return [
        entry
        for entry in study.entries
        if study.finished(entry) and not (entry.variant and Entry(entry.method) in study.entries)
    ]


def shared_scores(study: Study, metric: str) -> dict[Entry, dict[Repetition, float]]:
    """The scores of the contestants on the repetitions that all of them have.

    A contestant is left out if it would leave fewer than two repetitions to the others, which have more.
    """
    scores = {entry: values for entry in contestants(study) if (values := scores_of(study, entry, metric))}
    shared: dict[Entry, dict[Repetition, float]] = {}
    for entry, values in sorted(scores.items(), key=lambda item: -len(item[1])):
        before = next(iter(shared.values()), values)
        common = [key for key in before if key in values]
        if len(common) >= min(2, len(before)):
            shared = {each: {key: scores[each][key] for key in common} for each in (*shared, entry)}
    return shared


def _compare(
    study: Study,
    scores: Mapping[str, Mapping[Entry, Mapping[Repetition, float]]],
    pairs: Iterable[tuple[Entry, Entry]],
) -> list[Comparison]:
    """The comparisons of the pairs that have common repetitions; `scores` by metric."""
    comparisons = []
    for first, second in pairs:
        differences = {}
        for metric, by_entry in scores.items():
            minuends, subtrahends = by_entry.get(first, {}), by_entry.get(second, {})
            common = {key: score - subtrahends[key] for key, score in minuends.items() if key in subtrahends}
            if common:
                differences[metric] = estimate(study, common).within(-1, 1)
        if differences:
            comparisons.append(Comparison(first, second, differences))
    return _adjusted(comparisons)


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's p-values, for the comparisons of each metric."""
    adjusted: list[dict[str, Estimate]] = [{} for _ in comparisons]
    for metric in METRICS:
        family = [(i, each.differences[metric]) for i, each in enumerate(comparisons) if metric in each.differences]
        for (i, difference), p in zip(family, holm([each.p for _, each in family]), strict=True):
            adjusted[i][metric] = replace(difference, p_holm=p)
    return [replace(each, differences=new) for each, new in zip(comparisons, adjusted, strict=True)]


# Over data sets


@dataclass(frozen=True)
class Ranking:
    """The ranks of the entries that have a score in each of several studies."""

    entries: Sequence[Entry]
    studies: Sequence[Study]
    ranks: Ranks


def rank_studies(studies: Iterable[Study], metric: str) -> Ranking | None:
    """Rank the methods by their mean scores in several studies.

    None if fewer than two studies have scores, or fewer than two methods are in all of these.
    """
    scored = {study.name: _mean_scores(study, metric) for study in studies}
    ranked = [study for study in studies if scored[study.name]]
    common = (
        [entry for entry in contestants(ranked[0]) if all(entry in scored[each.name] for each in ranked)]
        if ranked
        else []
    )
    if min(len(ranked), len(common)) < 2:
        return None
    table = np.array([[scored[study.name][entry] for entry in common] for study in ranked])
    return Ranking(common, ranked, rank_methods(table))


def _mean_scores(study: Study, metric: str) -> dict[Entry, float]:
    by_entry = {entry: means(study, entry).get(metric) for entry in contestants(study)}
    return {entry: mean.mean for entry, mean in by_entry.items() if mean}
