"""The tables beside the scores: comparisons, ablations, classes, ranks.

A table is text that Markdown, LaTeX and the page share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rgjax import console
from rgjax.report.comparison import METRICS, means, metrics_of, planned_comparisons, rank_studies
from rgjax.report.runs import CLASS_SCORES, Entry, RunRecord
from rgjax.report.statistics import Estimate
from rgjax.report.study import Score, Study, chosen_settings, score_of

_AGGREGATIONS = [(metric, how) for metric in METRICS for how in ("max", "sum")]


class Cell(NamedTuple):
    """A text, and the number that sorts it."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of text; the first `text_columns` columns are aligned left."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    note: str = ""
    text_columns: int = 1


def details(study: Study) -> list[Table]:
    """All tables of a study that have lines."""
    tables = (mean_table(study), difference_table(study), ablation_table(study), class_table(study))
    return [table for table in tables if table.lines]


def plain_text(table: Table) -> str:
    """The table for a terminal, without its title and note."""
    align = "<" * table.text_columns + ">" * (len(table.header) - table.text_columns)
    return console.table([table.header, *([cell.text for cell in line] for line in table.lines)], align)


def format_p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def format_interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in interval))


def mean_table(study: Study) -> Table:
    """The mean of each metric with its interval, and the tuning budget."""
    metrics, budgets = metrics_of(study), {chosen.entry: chosen for chosen in chosen_settings(study)}
    lines = []
    for entry in study.entries:
        if by_metric := means(study, entry):
            cells = [_mean(by_metric.get(metric)) for metric in metrics]
            n = max(mean.n for mean in by_metric.values())
            budget = Cell(budgets[entry].budget, budgets[entry].tuned)
            lines.append([Cell(entry.name), *cells, Cell(str(n), n), budget])
    header = ["method", *(f"{title} (%)" for title in metrics.values()), f"n ({study.unit})", "tuning runs"]
    note = f"Means over {study.design}. {_about_intervals(study)}"
    if len(study.repetitions) == 1:
        note = "One run each: the 95 % intervals are for more test examples; another training would differ too."
    return Table("Means with intervals", header, lines, note)


def difference_table(study: Study) -> Table:
    """The planned comparisons with intervals and adjusted p-values."""
    metrics, lines = metrics_of(study), []
    for each in planned_comparisons(study):
        differences = [each.differences.get(metric) for metric in metrics]
        cells = [cell for difference in differences for cell in _difference(difference)]
        lines.append([Cell(each.first.name), Cell(each.second.name), *cells, Cell(str(each.n), each.n)])
    header = ["method", "minus", *(name for title in metrics.values() for name in (title, "p")), "pairs"]
    note = (
        "Differences in percentage points between runs on the same seed and split: each method against CE, and "
        f"regrouping against the same method without it. {_about_intervals(study)} p: adjusted for the comparisons in "
        "its column (Holm 1979). comparisons.csv has all pairs."
    )
    return Table("Paired differences", header, lines, note, text_columns=2)


def ablation_table(study: Study) -> Table:
    """BA at argmax and tuned, and macro AP, under both aggregations."""
    regrouped = [entry for entry in study.entries if entry.regroups and study.finished(entry)]
    baselines = [entry for entry in study.entries if entry in {Entry(each.baseline) for each in regrouped}]
    scores = {entry: aggregated_scores(study, entry) for entry in (*baselines, *regrouped)}
    columns = [name for name in _AGGREGATIONS if any(values[name] for values in scores.values())]
    lines = [[Cell(entry.name), *(_score(values[name]) for name in columns)] for entry, values in scores.items()]
    header = ["method", *(f"{METRICS[metric]}, {how}" for metric, how in columns)]
    note = (
        f"Test scores (%) by the aggregation of pseudo-class logits, mean ± standard deviation over {study.unit}. "
        "A difference in BA at argmax that neither tuned BA nor macro AP shows is one of the threshold."
    )
    return Table("Aggregation and threshold", header, lines, note)


def aggregated_scores(study: Study, entry: Entry) -> dict[tuple[str, str], Score | None]:
    """(metric, aggregation) -> score."""
    runs = study.finished(entry)
    return {(metric, how): score_of(run.row[f"{metric}_{how}"] for run in runs) for metric, how in _AGGREGATIONS}


def class_table(study: Study) -> Table:
    """Test examples, precision, recall, F1 and AP of each class and method."""
    finished = {entry: study.finished(entry) for entry in study.entries}
    runs = [run for entry_runs in finished.values() for run in entry_runs]
    shown = [name for name in CLASS_SCORES if any(name in run.class_scores for run in runs)]
    lines = []
    for entry, entry_runs in finished.items():
        for name in study.counts:
            sizes = sorted({run.test_counts[name] for run in entry_runs if name in run.test_counts})
            if sizes:
                size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
                cells = [_class_cell(entry_runs, score, name) for score in ("ap", *shown)]
                lines.append([Cell(entry.name), Cell(name), Cell(size, sizes[0]), *cells])
    titles = (score.replace("_", " ").replace("f1", "F1") for score in shown)
    header = ["method", "class", "n", "AP", *titles]
    note = (
        f"Test scores (%) of each class, mean ± standard deviation over {study.unit}, or of a single run with the 95 % "
        "interval for more examples of the same kind, where it has one. n: test examples of a run."
    )
    return Table("Each class", header, lines, note, text_columns=2)


def _class_cell(runs: Sequence[RunRecord], score: str, name: str) -> Cell:
    cell = _score(score_of(run.class_score(score, name) for run in runs))
    if len(runs) > 1:
        return cell
    return Cell(cell.text + format_interval(runs[0].class_intervals.get(score, {}).get(name)), cell.value)


# Several data sets


def rank_tables(studies: Sequence[Study]) -> list[Table]:
    """The ranks of the methods over the data sets, for each metric."""
    return [table for metric in METRICS if (table := _rank_table(studies, metric))]


def _rank_table(studies: Sequence[Study], metric: str) -> Table | None:
    ranking = rank_studies(studies, metric)
    if ranking is None:
        return None
    entries, ranks, lines = ranking.entries, ranking.ranks, []
    for i in sorted(range(len(entries)), key=lambda i: ranks.means[i]):
        scores = (_mean(means(study, entries[i]).get(metric)) for study in ranking.studies)
        lines.append([Cell(entries[i].name), Cell(f"{ranks.means[i]:.2f}", ranks.means[i]), *scores])
    test = "Friedman's test by permutation" if len(entries) > 2 else "Wilcoxon's signed-rank test"
    cliques = "; ".join(" = ".join(entries[i].name for i in clique) for clique in ranks.cliques())
    note = (
        f"Mean rank over {ranks.num_datasets} data sets, 1 is the best (Demsar 2006). {test}: p {format_p(ranks.p)}. "
        f"Ranks that differ by less than {ranks.critical_difference:.2f} (Nemenyi, 5 %) are not distinguishable: "
        f"{cliques or 'none'}."
    )
    return Table(
        f"Ranks over data sets by {METRICS[metric]}",
        ["method", "rank", *(study.name for study in ranking.studies)],
        lines,
        note,
    )


# Cells


def _mean(mean: Estimate | None) -> Cell:
    return Cell("-") if mean is None else Cell(f"{100 * mean.mean:.1f}{format_interval(mean.interval)}", mean.mean)


def _difference(difference: Estimate | None) -> tuple[Cell, Cell]:
    if difference is None:
        return Cell("-"), Cell("-")
    return Cell(str(difference), difference.mean), Cell(format_p(difference.p_holm), difference.p_holm)


def _score(score: Score | None) -> Cell:
    return Cell("-") if score is None else Cell(str(score), score.mean)


def _about_intervals(study: Study) -> str:
    if len(study.repetitions) < 2:
        return "One run has no interval."
    if study.num_splits == 1:
        return "Intervals: 95 %, Student's t over the seeds; they do not cover other splits."
    return (
        "Intervals: 95 %, Student's t with the variance corrected for splits that share examples (Nadeau & Bengio "
        "2003)."
    )
