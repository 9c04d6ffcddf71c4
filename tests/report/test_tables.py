"""The numbers of the tables against numpy, scipy and the paper's own, and the syntax of what holds them."""

import csv
import re

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sweeps import ODD

from rgjax.report.reading import read_runs, read_sweep
from rgjax.report.runs import Label
from rgjax.report.study import Line, Score, choices, differences, mark_best, studies, table
from rgjax.report.tables import latex, markdown

# The paper's Table 3: BA, then AP of neutral, positive, negative.
PAPER = {
    "ce": [(84.2, 0.61), (94.5, 1.76), (88.4, 2.68), (89.9, 1.64)],
    "wce": [(83.7, 0.64), (94.5, 1.46), (86.5, 2.71), (90.5, 2.93)],
    "focal": [(84.9, 0.90), (93.7, 2.12), (85.9, 4.69), (90.5, 1.63)],
    "ldam": [(83.8, 0.89), (94.1, 1.58), (87.4, 2.36), (90.4, 2.15)],
    "la": [(84.3, 0.59), (94.1, 1.98), (87.1, 2.18), (90.9, 0.57)],
    "ros": [(84.0, 0.64), (94.0, 1.22), (86.8, 2.98), (90.6, 2.52)],
    "rg": [(86.2, 0.45), (93.5, 0.53), (88.1, 1.43), (91.9, 1.30)],
    "rg_wce": [(87.5, 0.35), (94.3, 0.85), (88.7, 1.01), (93.6, 0.53)],
}


def studies_of(folder):
    return {study.name: study for study in studies(read_runs(folder, print), read_sweep(folder, print)[1])}


@pytest.fixture(scope="module")
def found(finished_sweep):
    return studies_of(finished_sweep)


def test_cells_are_mean_and_sample_deviation_of_the_reported_runs(found):
    study = found["digits"]
    runs = [run for run in study.runs if run.row["method"] == "focal" and run.row["stage"] == 2]
    line = next(line for line in table(study) if line.label == Label("focal"))
    assert line.n == len(runs) == 3
    for column, values in (
        (("BA", ""), [run.row["test_ba"] for run in runs]),
        (("AP", "8"), [r.test_ap["8"] for r in runs]),
    ):
        assert str(line.scores[column]) == f"{100 * np.mean(values):.1f}±{100 * np.std(values, ddof=1):.2f}"
    alone = next(line for line in table(study) if line.label == Label("ldam"))
    assert re.fullmatch(r"\d+\.\d", str(alone.scores["BA", ""]))


def test_the_best_of_the_papers_table_are_marked_as_its_rule_says():
    columns = [("BA", ""), ("AP", "neutral"), ("AP", "positive"), ("AP", "negative")]
    lines = [
        Line(Label(method), 5, 5, {c: Score(m / 100, s / 100, 5) for c, (m, s) in zip(columns, row, strict=True)})
        for method, row in PAPER.items()
    ]
    marked = {
        column: {line.label.method for line in mark_best(lines) if (score := line.scores[column]) and score.best}
        for column in columns
    }
    assert marked["BA", ""] == {"rg_wce"}
    assert marked["AP", "positive"] == marked["AP", "neutral"] == set(PAPER)
    # 93.6 - 0.53 = 93.07: WCE reaches 93.43, ROS 93.12, RG 93.20, and no other does.
    assert marked["AP", "negative"] == {"wce", "ros", "rg", "rg_wce"}


def test_an_undefined_score_and_a_single_run_take_part_as_far_as_they_can():
    column = ("BA", "")
    values = {"ce": Score(0.5, None, 1), "wce": None, "la": Score(0.45, 0.05, 3), "ros": Score(0.4, 0.05, 3)}
    lines = mark_best([Line(Label(method), 1, 1, {column: score}) for method, score in values.items()])
    assert [bool(score and score.best) for line in lines for score in line.scores.values()] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("column", ["test_ba", "test_macro_ap"])
def test_paired_intervals_are_those_of_scipy(column, found):
    study = found["digits"]
    rows = {m: [r.row[column] for r in study.runs if r.label == Label(m) and r.stage == 2] for m in ("ce", "rg")}
    expected = ttest_rel(rows["rg"], rows["ce"]).confidence_interval(0.95)
    difference = next(d for d in differences(study, column) if d.label == Label("rg"))
    assert difference.n == 3
    assert difference.mean == pytest.approx(np.mean(rows["rg"]) - np.mean(rows["ce"]))
    assert difference.interval == pytest.approx((expected.low, expected.high))
    alone = next(d for d in differences(study, column) if d.label == Label("ldam"))
    assert (alone.n, alone.interval) == (1, None)


def test_choices_name_the_settings_and_the_budget(found):
    chosen = {choice.label.key: (choice.settings, choice.budget) for choice in choices(found["digits"])}
    assert chosen["ldam"] == (("loss.max_m=1.0, loss.s=30.0",), "4")
    assert chosen["rg random groups"] == (("regroup.clustering=random",), "0")
    assert chosen["ce"] == (("",), "0")


def test_markdown_shows_user_text_as_it_is(finished_sweep):
    text = (finished_sweep / "table.md").read_text()
    assert r"a\_b \& \<b\>c\</b\> \$x\$ (150)" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    for rows in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1
    assert "| RG+WCE | **" in text
    assert "chosen by validation BA on seed 1000" in text


def test_latex_is_well_formed(finished_sweep):
    text = (finished_sweep / "table.tex").read_text()
    code = re.sub(r"(?<!\\)%.*", "", text)
    bare = re.sub(r"\\[{}]", "", code)
    depth = np.cumsum([(c == "{") - (c == "}") for c in bare])
    assert depth.min() >= 0 and depth[-1] == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    bodies = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", code, flags=re.S)
    assert len(bodies) == 2
    for layout, body in bodies:
        for row in re.findall(r"^(.*) \\\\$", body, flags=re.M):
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert len(re.findall(r"(?<!\\)&", row)) + spanned == len(layout) - 1
        plain = re.sub(r"\$\\(pm|uparrow)\$", "", body)
        assert not re.search(r"(?<!\\)[$#_%~^<>]", plain)
    assert r"a\_b \& \textless{}b\textgreater{}c\textless{}/b\textgreater{} \$x\$" in text


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("50 % {x}", r"50 \% \{x\}"),
        (r"a\b^c~d#e", r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d\#e"),
        ("$r|s_&\n t", r"\$r\textbar{}s\_\& t"),
    ],
)
def test_latex_escapes_every_special_sign(name, escaped, sweep_of):
    sweep = sweep_of(classes=("rest", name))
    sweep.run("a", "ce")
    row = next(line for line in latex(studies_of(sweep.folder).values()).splitlines() if line.startswith("Method"))
    assert row == rf"Method & BA (\%) $\uparrow$ & rest & {escaped} & n (seeds) \\"


def test_csv_holds_the_table_at_full_precision(finished_sweep, found):
    with open(finished_sweep / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [line for study in found.values() for line in table(study)]
    assert [row["label"] for row in rows] == [line.label.name for line in lines]
    assert [float(row["BA"]) for row in rows] == [line.scores["BA", ""].mean for line in lines]
    assert {row["study"] for row in rows if row[f"AP {ODD} std"]} == {"triple"}


def test_an_unfinished_label_tells_how_many_of_its_runs_there_are(sweep_of):
    sweep = sweep_of()
    sweep.run("a", "ce")
    sweep.run("b", "ce", seed=1, state="running")
    text = markdown("x", "incomplete", studies_of(sweep.folder).values())
    assert "| 1 of 2 |" in text
