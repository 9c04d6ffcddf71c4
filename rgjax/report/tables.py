"""Score tables as Markdown, LaTeX and CSV; every run as a row of results.parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from rgjax.report.runs import COLUMNS, RunRecord
from rgjax.report.study import (
    BA,
    Score,
    Study,
    TableRow,
    chosen_settings,
    paired_differences,
    score_table,
    table_caption,
)
from rgjax.report.text import escape_markdown

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
        for row in score_table(study):
            line: dict[str, object] = {"study": study.name, "dataset": study.dataset, "label": row.entry.name}
            line |= {"method": row.entry.method, "variant": row.entry.variant}
            line |= {"n": row.n, "planned": row.planned}
            for column, score in row.scores.items():
                name = "BA" if column == BA else f"AP {column[1]}"
                line |= {name: score and score.mean, f"{name} std": score and score.std, f"{name} best": _best(score)}
            lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _best(score: Score | None) -> int | None:
    return None if score is None else int(score.best)


# Markdown


def markdown_page(title: str, progress: str, studies: Iterable[Study]) -> str:
    sections = [f"# {escape_markdown(title)}", progress[0].upper() + progress[1:] + "."]
    for study in studies:
        rows = score_table(study)
        sections += [f"## {escape_markdown(study.name)}", _markdown_scores(study, rows)]
        sections += [escape_markdown(table_caption(study, rows)), "### Chosen settings", _markdown_settings(study)]
        if differences := _markdown_differences(study):
            heading = "Paired difference to CE on the same seeds, in percentage points, with 95 % Student-t intervals"
            sections += [f"### {heading}", differences]
        if study.notes:
            sections += ["### Notes on the data", "\n".join(f"- {escape_markdown(note)}" for note in study.notes)]
    return "\n\n".join(sections) + "\n"


def _markdown_scores(study: Study, rows: Sequence[TableRow]) -> str:
    classes = [f"AP (%) ↑ {escape_markdown(name)} ({n:,})" for name, n in study.counts.items()]
    lines = [[escape_markdown(row.entry.name), *_cells(row, "**{}**", escape_markdown), row.count] for row in rows]
    return _markdown_table(["method", "BA (%) ↑", *classes, "n (seeds)"], lines)


def _markdown_settings(study: Study) -> str:
    lines = [
        [escape_markdown(chosen.entry.name), "; ".join(map(escape_markdown, chosen.settings)) or "-", chosen.budget]
        for chosen in chosen_settings(study)
    ]
    return _markdown_table(["method", "settings", "tuning runs"], lines, text_columns=2)


def _markdown_differences(study: Study) -> str:
    macro_ap = {difference.entry: difference for difference in paired_differences(study, "test_macro_ap")}
    lines = [
        [escape_markdown(ba.entry.name), str(ba), str(macro_ap.get(ba.entry, "-")), str(ba.n)]
        for ba in paired_differences(study, "test_ba")
    ]
    return _markdown_table(["method", "BA", "macro AP", "pairs"], lines) if lines else ""


def _markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table whose first `text_columns` columns are aligned left, the rest right."""
    ruler = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *lines))


# LaTeX


def latex_tables(studies: Iterable[Study]) -> str:
    """A table environment for each study, for a document with booktabs."""
    return "\n".join([_LATEX_HEAD, *(_latex_table(study) for study in studies)])


def _latex_table(study: Study) -> str:
    rows, counts, classes = score_table(study), study.counts, len(study.counts)
    header = [r"Method & BA (\%) $\uparrow$ & n (seeds) \\"]
    if classes:
        names = " & ".join(map(_escape_latex, counts))
        below = " & ".join(f"({count:,})" for count in counts.values())
        header = [
            rf" &  & \multicolumn{{{classes}}}{{c}}{{AP (\%) $\uparrow$}} &  \\",
            rf"\cmidrule(lr){{3-{classes + 2}}}",
            rf"Method & BA (\%) $\uparrow$ & {names} & n (seeds) \\",
            rf" &  & {below} &  \\",
        ]
    lines = [
        " & ".join([_escape_latex(row.entry.name), *_cells(row, r"\best{{{}}}", _escape_latex), row.count]) + r" \\"
        for row in rows
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(table_caption(study, rows))}}}",
            rf"\begin{{tabular}}{{l{'c' * (classes + 1)}r}}",
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
