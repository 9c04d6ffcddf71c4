"""The notes on the data in a report."""

import json

import pytest

from rgjax.report.__main__ import render
from rgjax.report.reading import read_runs
from rgjax.report.study import make_studies


def add_notes(folder, *texts):
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": [{"text": text} for text in texts]}))


def notes_of(folder):
    [study] = make_studies(read_runs(folder), {})
    return study.notes


def test_a_note_of_all_runs_is_shown_once_and_one_of_few_with_their_number(sweep_of):
    sweep = sweep_of()
    for seed in range(3):
        add_notes(sweep.run(f"ce-{seed}", "ce", seed=seed), "7 files skipped", *(["1 text cut"] if seed else []))
    sweep.run("failed", "ce", seed=9, state="failed")  # has no provenance
    assert notes_of(sweep.folder) == ["7 files skipped", "1 text cut (2 of 3 runs)"]


def test_the_page_and_the_table_have_a_section_of_notes(sweep_of):
    sweep = sweep_of()
    add_notes(sweep.run("ce", "ce"), "2 files <skipped>: a_b.txt")
    render(sweep.folder)
    page, table = ((sweep.folder / name).read_text() for name in ("report.html", "table.md"))
    assert "<h3>Notes on the data</h3>" in page and "<li>2 files &lt;skipped&gt;: a_b.txt</li>" in page
    assert "### Notes on the data\n\n- 2 files \\<skipped\\>: a\\_b.txt\n" in table


@pytest.mark.parametrize("notes", [None, [], 3, ["text"], [{"kind": "x"}], {"text": "x"}])
def test_runs_without_notes_and_malformed_notes_have_no_section(notes, sweep_of):
    sweep = sweep_of()
    path = sweep.run("ce", "ce") / "provenance.json"
    if notes is not None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": notes}))
    assert notes_of(sweep.folder) == []
