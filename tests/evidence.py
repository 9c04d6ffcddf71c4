"""The tables of measured runs in the READMEs, from the archive of these runs in configs/results.

    python -m tests.evidence --add SWEEP [--as NAME]     keep the runs of a sweep whose report is written
    python -m tests.evidence                             write the tables anew

In a README, a table below the comment

    <!-- results NAME n=5: ba tuned_ba; NAME n=3: ap_mel -->

begins with one column for the method and one for each score of each archive; further columns stay as they are. A line
is `method` or `method variant`; a cell is the mean ± standard deviation, in %, over n reported runs. `ba-ce` is the
paired difference of a score to another method, in points.
"""

import argparse
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from rgjax.report.study import score_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "configs" / "results"
READMES = ROOT / "configs" / "README.md", ROOT / "README.md"
_MARK = re.compile(r"<!-- results (.*) -->")
_SCORES = re.compile(r"(val|test)_(tuned_)?(ba|macro_ap|ap)(_max|_sum)?|test_ap_.*")
_KEPT = {"dataset", "study", "method", "variant", "stage", "seed", "data_seed", "fold", "status", "selected_by"}
_KEPT |= {"aggregate", "num_classes", "num_pseudo_classes", "train_n", "test_n", "total_s"}
_SEARCHED = {"regroup.rule", "regroup.threshold", "loss.gamma", "loss.tau", "loss.max_m", "loss.s", "train.lr"}


class Column(NamedTuple):
    """A column of a table: a score of an archive, with the number of runs that each cell must have."""

    archive: str
    score: str
    n: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="SWEEP", help="a folder with results.parquet")
    parser.add_argument("--as", dest="name", help="its name in the archive; otherwise the folder's")
    options = parser.parse_args()
    if options.add:
        archive(options.add, options.name or options.add.name)
    else:
        for readme in READMES:
            readme.write_text(renewed(readme.read_text()))


def archive(sweep: Path, name: str) -> None:
    """Keep seeds, scores and searched settings of all runs of a sweep, those of tuning too."""
    table = parquet.read_table(sweep / "results.parquet")
    kept = [name for name in table.column_names if name in _KEPT | _SEARCHED or _SCORES.fullmatch(name)]
    table = table.select(kept)
    for index, field in enumerate(table.schema):
        if field.type == pa.float64():  # a score to seven digits
            table = table.set_column(index, field.name, table[field.name].cast(pa.float32()))
    parquet.write_table(table, RESULTS / f"{name}.parquet", compression="zstd", compression_level=19)


def renewed(text: str) -> str:
    """The text of a README with its tables written from the archive."""
    lines = text.splitlines()
    for start, columns in tables(lines):
        for index in range(start, len(lines)):
            if not lines[index].startswith("|"):
                break
            if index > start + 1:  # below the header and its rule
                lines[index] = renewed_line(lines[index], columns)
    return "\n".join(lines) + "\n"


def tables(lines: list[str]) -> Iterator[tuple[int, list[Column]]]:
    """The first line of each table under a mark, and its columns."""
    for index, line in enumerate(lines):
        if mark := _MARK.fullmatch(line):
            columns = []
            for part in mark[1].split(";"):
                source, _, scores = part.partition(":")
                name, n = source.split()
                columns += [Column(name, score, int(n.removeprefix("n="))) for score in scores.split()]
            yield next(i for i in range(index, len(lines)) if lines[i].startswith("|")), columns


def renewed_line(line: str, columns: list[Column]) -> str:
    """A line of a table: the name of a method, its cells, and what was written by hand."""
    name, *cells = line.strip("|").split("|")
    method, _, variant = name.replace("`", "").strip().partition(" ")
    written = [f" {cell(column, method, variant)} " for column in columns]
    return "|".join(["", name, *written, *cells[len(columns) :], ""])


def cell(column: Column, method: str, variant: str) -> str:
    """Mean ± standard deviation of a score in %, or of its paired difference to another method in points."""
    score, _, other = column.score.partition("-")
    values = reported(column.archive, method, variant, score)
    if not values:
        return "-"
    if len(values) != column.n:
        raise ValueError(f"{column.archive}: {method} {variant} has {len(values)} reported runs, not {column.n}")
    if other:
        reference = reported(column.archive, other, "", score)
        values = {seeds: value - reference[seeds] for seeds, value in values.items()}
    summary = score_of(values.values())
    assert summary is not None  # a finished run has every score
    mean = f"{100 * summary.mean:{'+' if other else ''}.1f}"
    return mean if summary.std is None else f"{mean} ± {100 * summary.std:.1f}"


def reported(archive: str, method: str, variant: str, score: str) -> dict[tuple, float]:
    """A test score of each reported run, by its data set, seeds and fold."""
    return {
        (row["dataset"], row["seed"], row["data_seed"], row["fold"]): row[f"test_{score}"]
        for row in runs_of(RESULTS / f"{archive}.parquet")
        if (row["method"], row["variant"], row["stage"], row["status"]) == (method, variant, 2, "done")
    }


@cache
def runs_of(path: Path) -> list[dict]:
    return parquet.read_table(path).to_pylist()


if __name__ == "__main__":
    main()
