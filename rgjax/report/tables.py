"""The tables of the studies as Markdown, LaTeX and CSV, and all rows as results.parquet."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from rgjax.report.runs import COLUMNS, Run
from rgjax.report.study import BA, Line, Score, Study, caption, choices, differences, table

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_EXACT = 2**53  # float64 holds the whole numbers up to here
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
)
_LATEX_HEAD = r"""% Needs \usepackage{booktabs}; with \usepackage{xcolor} what is best is maroon, as in the paper.
\providecommand{\best}[1]{\textbf{\ifdefined\textcolor\textcolor[rgb]{0.5,0,0}{#1}\else#1\fi}}
"""


def write_parquet(path: Path, runs: Sequence[Run]) -> None:
    """One row a run; what is undefined is null."""
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
    """Numbers and truth values as such; what is of several kinds as text."""
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if kinds <= {bool} or (kinds <= {int, float} and all(abs(value) <= _EXACT for value in known)):
        return pa.array(values, pa.float64() if float in kinds else pa.int64() if kinds == {int} else pa.bool_())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def csv_table(studies: Iterable[Study]) -> str:
    """One line for each label of each study, at full precision; columns of classes that a study lacks are empty."""
    rows: list[dict[str, object]] = []
    for study in studies:
        for line in table(study):
            row: dict[str, object] = {"study": study.name, "dataset": study.data_set, "label": line.label.name}
            row |= {"method": line.label.method, "variant": line.label.variant}
            row |= {"n": line.n, "planned": line.planned}
            for column, score in line.scores.items():
                name = "BA" if column == BA else f"AP {column[1]}"
                row |= {name: score and score.mean, f"{name} std": score and score.std, f"{name} best": _best(score)}
            rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _best(score: Score | None) -> int | None:
    return None if score is None else int(score.best)


def markdown(title: str, state: str, studies: Iterable[Study]) -> str:
    parts = [f"# {_plain(title)}", state[0].upper() + state[1:] + "."]
    for study in studies:
        lines = table(study)
        parts += [f"## {_plain(study.name)}", _markdown_scores(study, lines), _plain(caption(study, lines))]
        parts += ["### Chosen settings", _markdown_choices(study)]
        if paired := _markdown_differences(study):
            parts += ["### Paired difference to CE on the same seeds, in points, with 95 % Student-t intervals", paired]
    return "\n\n".join(parts) + "\n"


def _markdown_scores(study: Study, lines: Sequence[Line]) -> str:
    heads = ["method", "BA (%) ↑", *(f"AP (%) ↑ {_plain(k)} ({n:,})" for k, n in study.counts.items()), "n (seeds)"]
    rows = [[_plain(line.label.name), *_cells(line, "**{}**", _plain), line.count] for line in lines]
    return _markdown_table(heads, rows)


def _markdown_choices(study: Study) -> str:
    rows = [[_plain(c.label.name), "; ".join(map(_plain, c.settings)) or "-", c.budget] for c in choices(study)]
    return _markdown_table(["method", "settings", "runs of tuning"], rows, texts=2)


def _markdown_differences(study: Study) -> str:
    macro_ap = {difference.label: difference for difference in differences(study, "test_macro_ap")}
    rows = [
        [_plain(ba.label.name), str(ba), str(macro_ap.get(ba.label, "-")), str(ba.n)]
        for ba in differences(study, "test_ba")
    ]
    return _markdown_table(["method", "BA", "macro AP", "pairs"], rows) if rows else ""


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """The first `texts` columns are text, the others numbers."""
    ruler = ["---"] * texts + ["--:"] * (len(heads) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ruler, *rows))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def latex(studies: Iterable[Study]) -> str:
    """A table environment for each study, for a document with booktabs."""
    return "\n".join([_LATEX_HEAD, *(_latex_table(study) for study in studies)])


def _latex_table(study: Study) -> str:
    lines, counts, classes = table(study), study.counts, len(study.counts)
    heads = [r"Method & BA (\%) $\uparrow$ & n (seeds) \\"]
    if classes:
        names = " & ".join(map(_latex, counts))
        below = " & ".join(f"({count:,})" for count in counts.values())
        heads = [
            rf" &  & \multicolumn{{{classes}}}{{c}}{{AP (\%) $\uparrow$}} &  \\",
            rf"\cmidrule(lr){{3-{classes + 2}}}",
            rf"Method & BA (\%) $\uparrow$ & {names} & n (seeds) \\",
            rf" &  & {below} &  \\",
        ]
    rows = [
        " & ".join([_latex(line.label.name), *_cells(line, r"\best{{{}}}", _latex), line.count]) + r" \\"
        for line in lines
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption(study, lines))}}}",
            rf"\begin{{tabular}}{{l{'c' * (classes + 1)}r}}",
            r"\toprule",
            *heads,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX)


def _cells(line: Line, best: str, escape: Callable[[str], str]) -> list[str]:
    texts = ((score, escape(str(score or "-"))) for score in line.scores.values())
    return [best.format(text) if score and score.best else text for score, text in texts]
