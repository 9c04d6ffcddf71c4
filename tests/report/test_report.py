"""The command: what it prints, what it refuses, what it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rgjax.report import __main__

ROOT = Path(__file__).parents[2]
TEXTS = ("report.html", "table.md", "table.tex", "table.csv", "comparisons.csv", "results.parquet")


@pytest.mark.long
def test_the_command_names_its_files_and_needs_no_jax(sweep_of):
    sweep = sweep_of()
    sweep.run("a", "ce")
    code = "import sys, rgjax.report.verify; from rgjax.report.__main__ import main; main(sys.argv[1:]); " \
        "print({'jax', 'flax'} & {*sys.modules})"  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-c", code, sweep.folder],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    *lines, modules = process.stdout.splitlines()
    files = [line for line in lines if line.startswith(str(sweep.folder))]
    assert modules == "set()"
    assert {f"{sweep.folder / name}" for name in TEXTS} < set(files)
    assert all(Path(file).stat().st_size > 0 for file in files)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "DIR is missing; give the folder of a sweep or of runs"),
        (["a", "b"], "unexpected argument 'b'"),
        (["--config=x"], "unknown option '--config=x'"),
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no run below it"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    with pytest.raises(SystemExit) as ended:
        __main__.cli()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rgjax: ") and says in line
    assert not list(tmp_path.iterdir())


def test_help_is_the_docstring(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        __main__.cli()
    assert capsys.readouterr().out.strip() == (__main__.__doc__ or "").strip()


@pytest.mark.long
def test_the_same_runs_give_the_same_files(sweep_of):
    sweep = sweep_of()
    for seed in (0, 1):
        sweep.run(f"ce-{seed}", "ce", seed=seed)
        sweep.run(f"rg-{seed}", "rg", seed=seed)
    first = {path: path.read_bytes() for path in __main__.render(sweep.folder)}
    assert {path: path.read_bytes() for path in __main__.render(sweep.folder)} == first
    assert not list(sweep.folder.rglob(".*"))


def test_an_unfinished_and_damaged_sweep_is_reported_as_incomplete(sweep_of, capsys):
    sweep = sweep_of()
    sweep.run("a", "ce")
    for state in ("running", "pending", "failed"):
        sweep.run(state, "rg", state=state)
    for name, half in (("b", "result.json"), ("c", "config.json"), ("d", "run.json")):
        (sweep.run(name, "wce") / half).write_text('{"method": "w')
    (sweep.folder / "sweep.json").write_text('{"studies"')
    __main__.render(sweep.folder)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 4
    assert all(line.startswith("rgjax: ") for line in warnings)
    page = (sweep.folder / "report.html").read_text()
    assert "incomplete: 1 of 7 runs done, 1 running, 1 pending, 1 failed, 3 damaged" in page
    assert "the loss is &lt;b&gt;not&lt;/b&gt; finite" in page
    assert "Incomplete: 1 of 7" in (sweep.folder / "table.md").read_text()


def test_sweeps_without_a_finished_run_have_a_report(sweep_of):
    sweep = sweep_of()
    methods = {"rg": {"variant": "", "tuning": 2, "reported": 3}}
    (sweep.folder / "sweep.json").write_text(json.dumps({"studies": {"later": {"methods": methods}}}))
    __main__.render(sweep.folder)
    assert "incomplete: 0 of 5 runs done, 5 pending" in (sweep.folder / "report.html").read_text()
    sweep.run("a", "rg", state="failed")
    __main__.render(sweep.folder)
    assert "0 of 6 runs done, 5 pending, 1 failed" in (sweep.folder / "report.html").read_text()
