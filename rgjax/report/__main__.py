"""Report on a sweep, or on single runs: tables, figures and a page.

    python -m rgjax.report DIR [--verify]

Reads the result files of all runs at any depth below DIR, and writes into DIR:

    report.html                      everything on one page, readable without a network
    table.md, table.tex, table.csv   mean ± standard deviation over seeds, in the layout of the paper's Table 3
    comparisons.csv                  paired differences between methods, with intervals and adjusted p-values
    results.parquet                  one row for each run: scores, settings, status, command
    figures/                         each figure as .png and .svg

and prints the mean scores, and in plain words: which method is ahead, by how much and how surely, and whether
regrouping helped. An unfinished sweep is reported as incomplete. The same runs give the same files.

Options:

    --verify   write nothing, and check every finished run below DIR, with one line for each

Each figure of result.json is recomputed from predictions.npz by scikit-learn (the intervals by the run's own code) and
must agree within 1e-6; each file must have its checksum in manifest.json. Runs by version 0.1.0, which
summed pseudo-classes in float32, may differ by 1e-3 in the figures of "sum" aggregation. Exit code 0: all runs are
verified; 1: something differs, or a run has no manifest; 2: there is nothing to verify.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from rgjax.command import Parser, run
from rgjax.console import local_path
from rgjax.errors import UserError
from rgjax.storage.files import atomic_path

# The modules of this package are imported in functions: they take two seconds, and a mistyped folder should be answered
# at once.
if TYPE_CHECKING:
    from rgjax.report.study import Study

_WIDTH = 100  # of a paragraph, in characters


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("directory", nargs="?", type=local_path, metavar="DIR")
    parser.switch("verify")
    options = parser.parse(argv)
    if options.directory is None:
        parser.error("DIR is missing; give the folder of a sweep or of runs")
    if not options.directory.is_dir():
        raise UserError(f"{options.directory}: no such folder; give the folder of a sweep or of runs")
    if options.verify:
        return verify(options.directory)
    from rgjax.report.details import mean_table, plain_text
    from rgjax.report.paragraph import in_words, ranks_in_words

    command, studies = read_studies(options.directory)
    print(*write(options.directory, command, studies), sep="\n")
    for study in studies:
        print(f"\n{study.name}, %, with 95 % intervals over {study.unit}\n\n{plain_text(mean_table(study))}\n")
        print(fill(in_words(study), _WIDTH))
    if ranks := ranks_in_words(studies):
        print("\n" + fill(ranks, _WIDTH))
    return 0


def verify(directory: Path) -> int:
    """Print the verdict on each finished run; return the exit code.

    Raises UserError if there is no finished run below `directory`.
    """
    # A report does without scikit-learn, which takes a second.
    from rgjax.report.verify import verify as verdicts_on

    counts: Counter[str] = Counter()
    for verdict in verdicts_on(directory):
        print(verdict.line(directory), flush=True)
        counts[verdict.state] += 1
    if not counts:
        raise UserError(f"{directory}: no finished run below it (result.json, manifest.json); give a folder of runs")
    runs = "1 finished run" if counts.total() == 1 else f"{counts.total()} finished runs"
    print(f"{runs}: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    return int(counts.keys() != {"OK"})


def render(directory: Path) -> list[Path]:
    """Write all files of the report; return their paths.

    Raises UserError if there is no run below `directory`.
    """
    return write(directory, *read_studies(directory))


def read_studies(directory: Path) -> "tuple[str | None, list[Study]]":
    """The command of the sweep, and the studies below `directory`.

    Raises UserError if there is none.
    """
    from rgjax.report.reading import read_runs, read_sweep
    from rgjax.report.study import make_studies

    runs, (sweep, plans) = read_runs(directory), read_sweep(directory)
    if not runs and not plans:
        raise UserError(f"{directory}: no run below it (config.json, result.json, ...); give a folder of runs")
    return sweep.get("command"), make_studies(runs, plans)


def write(directory: Path, command: str | None, studies: "Sequence[Study]") -> list[Path]:
    """Write all files of the report on the studies; return their paths."""
    from rgjax.report.page import render_page
    from rgjax.report.plots.charts import draw_all
    from rgjax.report.study import count_statuses, describe_progress
    from rgjax.report.tables import csv_comparisons, csv_table, latex_tables, markdown_page, write_parquet

    title = directory.resolve().name or "runs"
    charts = [(study, draw_all(study, directory / "figures")) for study in studies]
    texts = {
        "report.html": render_page(title, command, charts),
        "table.md": markdown_page(title, describe_progress(count_statuses(studies)), studies),
        "table.tex": latex_tables(studies),
        "table.csv": csv_table(studies),
        "comparisons.csv": csv_comparisons(studies),
    }
    for name, text in texts.items():
        with atomic_path(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_path(directory / "results.parquet") as temporary:
        write_parquet(temporary, [run for study in studies for run in study.runs])
    figures = [path for _, study_charts in charts for chart in study_charts for path in (chart.png, chart.svg)]
    return [*(directory / name for name in (*texts, "results.parquet")), *figures]


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
