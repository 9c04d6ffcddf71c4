"""The check for a card runs on any machine with the smallest sizes, and says what is wrong, missing or too slow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.accelerator import __main__ as check
from tests.accelerator.figures import Figures, speed, table

ROOT = Path(__file__).parents[1]


def run(folder, *words):
    """The results of the check with the smallest sizes."""
    words = ["-m", "tests.accelerator", f"--output={folder}", "--tiny", "--deadline=1500", *words]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "accelerator.json").read_text())
    assert all(result["outcome"] == "done" for result in results.values())
    return results


@pytest.mark.long
def test_a_program_and_kmeans_are_measured_here(tmp_path):
    results = run(tmp_path, "--only=machine,population,kmeans")
    assert results["population"]["cases"]["population"]["gain"] > 0
    assert all(case["same_bits"] for case in results["kmeans"]["cases"].values())


@pytest.mark.soak
def test_all_sections_run_here(tmp_path):
    results = run(tmp_path)
    assert list(results) == list(check.SECTIONS)
    for case in ("again", "compiled anew", "killed and resumed"):
        assert results["runs"]["cases"][case]["same_bits"]


def test_a_section_that_is_wrong_fails_or_takes_too_long_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "__main__.py").write_text(
        "import json, sys, time\n"
        "name, folder = (word.split('=')[1] for word in sys.argv[1:3])\n"
        "json.dump({'case': {'same_bits': name != 'runs'}}, open(f'{folder}/{name}.json', 'w'))\n"
        "if name == 'bert': sys.exit(3)\n"
        "if name == 'kmeans': time.sleep(60)\n"
    )
    monkeypatch.setattr(check, "_COMMAND", (sys.executable, str(tmp_path / "sections")))
    monkeypatch.setattr(check, "LEAST", 0.1)
    monkeypatch.setitem(check.SECTIONS, "kmeans", check.SECTIONS["kmeans"]._replace(limit=1.0))
    assert check.check(["machine", "runs", "bert", "kmeans"], tmp_path, 30.0, tiny=False) == 1
    results = json.loads((tmp_path / "accelerator.json").read_text())
    outcomes = [result["outcome"] for result in results.values()]
    assert outcomes[:2] == ["done", "wrong: case: same_bits"]
    assert outcomes[2].startswith("failed with code 3") and outcomes[3] == "cut off after 1 s"
    assert results["kmeans"]["cases"]  # what it had is kept
    printed = capsys.readouterr().out
    assert "runs: wrong" in printed and "NO" in printed


def test_what_does_not_fit_before_the_deadline_is_skipped_and_no_failure(tmp_path):
    assert check.check(["machine", "runs"], tmp_path, 1.0, tiny=False) == 0
    results = json.loads((tmp_path / "accelerator.json").read_text())
    assert all(result["outcome"].startswith("skipped") for result in results.values())


def test_speed_counts_examples_by_the_step(tmp_path):
    calls = []
    figures = speed(calls.append, 32, tiny=True)
    assert calls == [1, 1, 1, 1]
    assert figures["examples_per_s"] == pytest.approx(32_000 / figures["step_ms"])
    written = Figures(tmp_path / "s.json", tiny=True)
    written.add("case", **figures)
    assert json.loads((tmp_path / "s.json").read_text()) == {"case": figures}


def test_the_table_has_ours_against_torchs_fastest():
    def section(**cases):
        return {"outcome": "done", "cases": {case: {"examples_per_s": rate} for case, rate in cases.items()}}

    results = {"resnet224": section(ours=3000.0), "torch_resnet224": section(eager=1000.0, compiled=1500.0)}
    assert table(results).endswith("resnet224: 2.00 times torch's speed")
    assert not table(results, tiny=True).endswith("speed")
