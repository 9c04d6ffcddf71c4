"""Render what a sweep, or single runs, left in a folder.

    python -m rgjax.report DIR

reads result files alone, at any depth below DIR, and writes into DIR:

    report.html                      everything on one page that needs no network
    table.md, table.tex, table.csv   mean ± standard deviation over seeds, in the layout of the paper's Table 3
    results.parquet                  a row for each run: scores, settings, status, command
    figures/                         each figure as .png and .svg

An unfinished sweep is reported as far as it is, and marked as incomplete. The same runs give the same files.
"""

import sys
from pathlib import Path

from rgjax.errors import UserError, told_in_one_line
from rgjax.storage import atomic_path, local


def main(argv: list[str]) -> None:
    if any(word in ("-h", "--help", "-help") for word in argv):
        print(__doc__)
        return
    directory = directory_of(argv)
    print(*render(directory), sep="\n")


def directory_of(argv: list[str]) -> Path:
    """The folder that the command line names. Raises UserError where it names none."""
    if unknown := next((word for word in argv if word.startswith("-")), None):
        raise UserError(f"unknown option '{unknown}': python -m rgjax.report DIR understands --help alone")
    if len(argv) != 1:
        raise UserError(f"one folder is needed, not {len(argv)}: python -m rgjax.report DIR")
    directory = local(argv[0])
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}: give that of a sweep or of runs")
    return directory


def render(directory: Path) -> list[Path]:
    """Write everything; returns what was written. Raises UserError where there is no run below `directory`."""
    # Imported here: they take two seconds, and a mistyped folder is to be answered at once.
    from rgjax.reports.charts import draw_all
    from rgjax.reports.page import page
    from rgjax.reports.reading import read_runs, read_sweep
    from rgjax.reports.study import state, statuses, studies
    from rgjax.reports.tables import csv_table, latex, markdown, write_parquet

    runs, (sweep, plans) = read_runs(directory, warn), read_sweep(directory, warn)
    if not runs and not plans:
        raise UserError(f"there is no run below {directory}: a run's folder holds config.json, result.json, ...")
    title, found = directory.resolve().name or "runs", studies(runs, plans)
    drawn = [(study, draw_all(study, directory / "figures", warn)) for study in found]
    texts = {
        "table.md": markdown(title, state(statuses(found)), found),
        "table.tex": latex(found),
        "table.csv": csv_table(found),
        "report.html": page(title, sweep.get("command"), drawn, warn),
    }
    for name, text in texts.items():
        with atomic_path(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_path(directory / "results.parquet") as temporary:
        write_parquet(temporary, runs)
    charts = [path for _, of_study in drawn for chart in of_study for path in (chart.png, chart.svg)]
    return [*(directory / name for name in ("report.html", *list(texts)[:3], "results.parquet")), *charts]


def warn(text: str) -> None:
    print(f"rgjax: {' '.join(text.split())}", file=sys.stderr)


def cli() -> None:
    with told_in_one_line():
        main(sys.argv[1:])


if __name__ == "__main__":
    cli()
