"""Render what a sweep, or single runs, left in a folder.

    python -m rgjax.report DIR

reads result files alone, at any depth below DIR, and writes into DIR:

    report.html                      everything on one page that needs no network
    table.md, table.tex, table.csv   mean ± standard deviation over seeds, in the layout of the paper's Table 3
    results.parquet                  a row for each run: scores, settings, status, command
    figures/                         each figure as .png and .svg

An unfinished sweep is reported as far as it is, and marked as incomplete. The same runs give the same files.

    python -m rgjax.report --verify DIR

writes nothing, and holds every finished run below DIR to what it left: each figure of result.json is computed again
from predictions.npz by scikit-learn (the bootstrap intervals by the run's own code) and may be off by 1e-6; what is
summed over groups may further be off by the order of scores that rounding to float32 leaves open. Each file is held to
its checksum in manifest.json. A line a run, and exit code 0 where all are verified, 1 where something differs or a
run has no manifest, 2 where there is nothing to verify.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rgjax.command import Parser
from rgjax.console import configure_logging, exit_codes, local_path
from rgjax.errors import UserError
from rgjax.storage.files import atomic_path


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("directory", nargs="?", type=local_path, metavar="DIR")
    parser.switch("verify")
    options = parser.parse(argv)
    if options.directory is None:
        parser.error("DIR is missing: the folder of a sweep or of runs")
    if not options.directory.is_dir():
        raise UserError(f"{options.directory}: there is no such folder; give that of a sweep or of runs")
    if options.verify:
        return verify(options.directory)
    print(*render(options.directory), sep="\n")
    return 0


def verify(directory: Path) -> int:
    """Print the verdict on each finished run; returns the exit code. Raises UserError where there is none."""
    from rgjax.report import verify as reports

    verdicts = []
    for verdict in reports.verify(directory):
        print(verdict.line(directory), flush=True)
        verdicts.append(verdict)
    if not verdicts:
        raise UserError(f"there is no finished run below {directory}: one has result.json and manifest.json")
    counts = Counter(verdict.state for verdict in verdicts)
    runs = "1 finished run" if len(verdicts) == 1 else f"{len(verdicts)} finished runs"
    print(f"{runs}: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    return int(counts.keys() != {"OK"})


def render(directory: Path) -> list[Path]:
    """Write everything; returns what was written. Raises UserError where there is no run below `directory`."""
    # Imported here: they take two seconds, and a mistyped folder is to be answered at once.
    from rgjax.report.page import page
    from rgjax.report.plots.charts import draw_all
    from rgjax.report.reading import read_runs, read_sweep
    from rgjax.report.study import state, statuses, studies
    from rgjax.report.tables import csv_table, latex, markdown, write_parquet

    runs, (sweep, plans) = read_runs(directory), read_sweep(directory)
    if not runs and not plans:
        raise UserError(f"there is no run below {directory}: a run's folder holds config.json, result.json, ...")
    title, found = directory.resolve().name or "runs", studies(runs, plans)
    drawn = [(study, draw_all(study, directory / "figures")) for study in found]
    texts = {
        "table.md": markdown(title, state(statuses(found)), found),
        "table.tex": latex(found),
        "table.csv": csv_table(found),
        "report.html": page(title, sweep.get("command"), drawn),
    }
    for name, text in texts.items():
        with atomic_path(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_path(directory / "results.parquet") as temporary:
        write_parquet(temporary, runs)
    charts = [path for _, of_study in drawn for chart in of_study for path in (chart.png, chart.svg)]
    return [*(directory / name for name in ("report.html", *list(texts)[:3], "results.parquet")), *charts]


def cli() -> None:
    configure_logging()
    with exit_codes():
        if code := main(sys.argv[1:]):
            sys.exit(code)


if __name__ == "__main__":
    cli()
