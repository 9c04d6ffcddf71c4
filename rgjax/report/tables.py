"""Tables as Markdown, LaTeX and CSV; every run as a row of results.parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from rgjax.report.comparison import METRICS, all_pairs, means, planned_comparisons
from rgjax.report.details import Table, ablation_table, details, difference_table, rank_tables
from rgjax.report.paragraph import paragraphs
from rgjax.report.runs import CLASS_SCORES, COLUMNS, RunRecord
from rgjax.report.study import (
    Score,
    Study,
    TableRow,
    chosen_settings,
    overall_titles,
    score_of,
    score_table,
    table_caption,
)
from rgjax.report.text import escape_markdown, markdown_table

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_MAX_EXACT = 2**53  # float64 represents all integers up to here
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
)
_LATEX_HEAD = r"""% Needs \usepackage{booktabs}; with \usepackage{xcolor} the best scores are maroon, as in the paper.
\providecommand{\best}[1]{\textbf{\ifdefined\textcolor\textcolor[rgb]{0.5,0,0}{#1}\else#1\fi}}
"""


# Parquet and CSV


def write_parquet(path: Path, runs: Sequence[RunRecord]) -> None:
    """Write one row for each run; undefined values are null."""
    classes = list(dict.fromkeys(name for run in runs for name in run.counts))
    settings = [name for name in dict.fromkeys(name for run in runs for name in run.config) if name not in COLUMNS]
    columns = {name: pa.array([run.row[name] for run in runs], _TYPES[kind]) for name, kind in COLUMNS.items()}
    for name in classes:
        columns[f"test_ap_{name}"] = pa.array([run.test_ap.get(name) for run in runs], pa.float64())
        columns[f"val_ap_{name}"] = pa.array([run.val_ap.get(name) for run in runs], pa.float64())
        for score in CLASS_SCORES:
            columns[f"test_{score}_{name}"] = pa.array([run.class_score(score, name) for run in runs], pa.float64())
    for name in settings:
        columns.setdefault(name, _settings_column([run.config.get(name) for run in runs]))
    parquet.write_table(pa.table(columns), path)


def _settings_column(values: list) -> pa.Array:
    """Numbers and booleans keep their type; a column of mixed types becomes text."""
    defined = [value for value in values if value is not None]
    kinds = {type(value) for value in defined}
    if kinds <= {bool} or (kinds <= {int, float} and all(abs(value) <= _MAX_EXACT for value in defined)):
        return pa.array(values, pa.float64() if float in kinds else pa.int64() if kinds == {int} else pa.bool_())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def csv_table(studies: Iterable[Study]) -> str:
    """A line for each entry at full precision; classes that a study lacks stay empty."""
    lines: list[dict[str, object]] = []
    for study in studies:
        budgets = {chosen.entry: chosen.tuned for chosen in chosen_settings(study)}
        for row in score_table(study):
            line: dict[str, object] = {"study": study.name, "dataset": study.dataset, "label": row.entry.name}
            line |= {"method": row.entry.method, "variant": row.entry.variant}
            line |= {"n": row.n, "planned": row.planned}
            for column, score in row.scores.items():
                name = " ".join(filter(None, column))
                line |= {name: score and score.mean, f"{name} std": score and score.std, f"{name} best": _best(score)}
            for metric, mean in means(study, row.entry).items():
                line |= dict(
                    zip((f"{METRICS[metric]} low", f"{METRICS[metric]} high"), mean.interval or (), strict=False)
                )
            line["tuning runs"] = budgets[row.entry]
            for score_name in CLASS_SCORES:
                for name in study.counts:
                    score = score_of(run.class_score(score_name, name) for run in study.finished(row.entry))
                    line[f"{score_name.replace('_', ' ')} {name}"] = score and score.mean
            lines.append(line)
    return _csv(lines, list(dict.fromkeys(name for line in lines for name in line)))


def csv_comparisons(studies: Iterable[Study]) -> str:
    """A line for each comparison and metric, in both families of adjusted p-values."""
    lines: list[dict[str, object]] = []
    header = ("study", "family", "first", "second", "metric", "difference", "low", "high", "n", "p", "p Holm")
    for study in studies:
        for family, comparisons in (("planned", planned_comparisons(study)), ("all pairs", all_pairs(study))):
            for each in comparisons:
                for metric, difference in each.differences.items():
                    names = (study.name, family, each.first.name, each.second.name, METRICS[metric])
                    numbers = (difference.mean, *(difference.interval or (None, None)), difference.n)
                    values = (*names, *numbers, difference.p, difference.p_holm)
                    lines.append(dict(zip(header, values, strict=True)))
    return _csv(lines, header)


def _csv(lines: Sequence[dict[str, object]], header: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _best(score: Score | None) -> int | None:
    return None if score is None else int(score.best)


# Markdown


def markdown_page(title: str, progress: str, studies: Sequence[Study]) -> str:
    """The page, which leads with what the studies show in words."""
    sections = [f"# {escape_markdown(title)}", progress[0].upper() + progress[1:] + "."]
    sections += map(escape_markdown, paragraphs(studies))
    sections += [text for table in rank_tables(studies) for text in _markdown_details(table, "##")]
    for study in studies:
        rows = score_table(study)
        sections += [f"## {escape_markdown(study.name)}", _markdown_scores(study, rows)]
        sections += [escape_markdown(table_caption(study, rows)), "### Chosen settings", _markdown_settings(study)]
        sections += [text for table in details(study) for text in _markdown_details(table, "###")]
        if study.notes:
            sections += ["### Notes on the data", "\n".join(f"- {escape_markdown(note)}" for note in study.notes)]
    return "\n\n".join(sections) + "\n"


def _markdown_scores(study: Study, rows: Sequence[TableRow]) -> str:
    overall = [f"{title} (%) ↑" for title in overall_titles(rows)]
    classes = [f"AP (%) ↑ {escape_markdown(name)} ({n:,})" for name, n in study.counts.items()]
    lines = [[escape_markdown(row.entry.name), *_cells(row, "**{}**", escape_markdown), row.count] for row in rows]
    return markdown_table(["method", *overall, *classes, f"n ({study.unit})"], lines)


def _markdown_details(table: Table, level: str) -> list[str]:
    lines = [[escape_markdown(cell.text) for cell in line] for line in table.lines]
    header = [escape_markdown(name) for name in table.header]
    text = markdown_table(header, lines, text_columns=table.text_columns)
    return [f"{level} {escape_markdown(table.title)}", text, escape_markdown(table.note)]


def _markdown_settings(study: Study) -> str:
    lines = [
        [escape_markdown(chosen.entry.name), "; ".join(map(escape_markdown, chosen.settings)) or "-", chosen.budget]
        for chosen in chosen_settings(study)
    ]
    return markdown_table(["method", "settings", "tuning runs"], lines, text_columns=2)


# LaTeX


def latex_tables(studies: Iterable[Study]) -> str:
    """Table environments for a document with booktabs: scores, comparisons, ablations."""
    parts = [_LATEX_HEAD]
    for study in studies:
        parts.append(_latex_scores(study))
        parts += [_latex_details(study, table(study)) for table in (difference_table, ablation_table)]
    return "\n".join(filter(None, parts))


def _latex_scores(study: Study) -> str:
    rows, counts, classes = score_table(study), study.counts, len(study.counts)
    overall = [rf"{title} (\%) $\uparrow$" for title in overall_titles(rows)]
    names = " & ".join(["Method", *overall, *map(_escape_latex, counts), f"n ({study.unit})"])
    header = [rf"{names} \\"]
    if classes:
        before = " & " * len(overall)
        below = " & ".join(f"({count:,})" for count in counts.values())
        header = [
            rf"{before} & \multicolumn{{{classes}}}{{c}}{{AP (\%) $\uparrow$}} &  \\",
            rf"\cmidrule(lr){{{len(overall) + 2}-{len(overall) + classes + 1}}}",
            *header,
            rf"{before} & {below} &  \\",
        ]
    lines = [
        " & ".join([_escape_latex(row.entry.name), *_cells(row, r"\best{{{}}}", _escape_latex), row.count]) + r" \\"
        for row in rows
    ]
    layout = f"l{'c' * (classes + len(overall))}r"
    return _latex_table(table_caption(study, rows), layout, header, lines)


def _latex_details(study: Study, table: Table) -> str:
    if not table.lines:
        return ""
    header, *lines = (
        " & ".join(map(_escape_latex, texts)) + r" \\"
        for texts in (table.header, *([cell.text for cell in line] for line in table.lines))
    )
    layout = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    return _latex_table(f"{study.dataset}, {table.title.lower()}. {table.note}", layout, [header], lines)


def _latex_table(caption: str, layout: str, header: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            *header,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escape_latex(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX)


def _cells(row: TableRow, best: str, escape: Callable[[str], str]) -> list[str]:
    """The formatted scores; `best` is the format of the best ones."""
    texts = ((score, escape(str(score or "-"))) for score in row.scores.values())
    return [best.format(text) if score and score.best else text for score, text in texts]
