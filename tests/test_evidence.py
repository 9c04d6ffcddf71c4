"""The tables of results in the READMEs hold the figures of the archived runs."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests import evidence

LIMIT = 1_000_000  # bytes of the archive


@pytest.mark.parametrize("readme", evidence.READMES, ids=lambda path: str(path.relative_to(evidence.ROOT)))
def test_tables_hold_the_archived_figures(readme):
    text = readme.read_text()
    assert "<!-- results " in text
    for before, after in zip(text.splitlines(), evidence.renewed(text).splitlines(), strict=True):
        assert before == after, "python -m tests.evidence writes the tables anew"


def test_every_archived_sweep_has_a_table_and_is_small():
    text = evidence.READMES[0].read_text()
    archived = list(evidence.RESULTS.glob("*.parquet"))
    columns = [column for _, columns in evidence.tables(text.splitlines()) for column in columns]
    assert {path.stem for path in archived} == {column.archive for column in columns}
    assert sum(path.stat().st_size for path in archived) < LIMIT
    runs = sum(parquet.read_metadata(path).num_rows for path in archived)
    assert f"{runs:,} runs" in text


@pytest.fixture
def archived(tmp_path, monkeypatch):
    """Two seeds of `ce` and `rg`, a tuning run, and one that failed."""
    rows = [
        {"method": method, "variant": "", "stage": stage, "seed": seed, "test_ba": ba, "status": status}
        for method, stage, seed, ba, status in (
            ("ce", 2, 0, 0.50, "done"),
            ("ce", 2, 1, 0.60, "done"),
            ("rg", 1, 1000, 0.90, "done"),
            ("rg", 2, 1, 0.70, "done"),
            ("rg", 2, 0, 0.58, "done"),
            ("rg", 2, 2, None, "failed"),
        )
    ]
    seeds = [row | {"dataset": "toy", "data_seed": row["seed"], "fold": None, "workdir": "rg-1"} for row in rows]
    Path(tmp_path, "sweep").mkdir()
    parquet.write_table(pa.Table.from_pylist(seeds), tmp_path / "sweep" / "results.parquet")
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    evidence.archive(tmp_path / "sweep", "toy")


def test_means_deviations_and_paired_differences(archived):
    head = "<!-- results toy n=2: ba ba-ce -->\n\n| method | BA | gain | paper |\n|---|---|---|---|\n"
    rows = "| `ce` | | | 84.2 |\n| `rg` | 0 | 0 | 86.2 |\n| `rg random` | | | |\n"
    assert evidence.renewed(head + rows).splitlines()[4:] == [
        "| `ce` | 55.0 ± 7.1 | +0.0 ± 0.0 | 84.2 |",
        "| `rg` | 64.0 ± 8.5 | +9.0 ± 1.4 | 86.2 |",
        "| `rg random` | - | - | |",
    ]


def test_a_missing_run_is_an_error(archived):
    with pytest.raises(ValueError, match="toy: rg  has 2 reported runs, not 3"):
        evidence.renewed("<!-- results toy n=3: ba -->\n| method | BA |\n|---|---|\n| `rg` | |\n")


def test_paths_are_not_archived(archived):
    assert "workdir" not in parquet.read_schema(evidence.RESULTS / "toy.parquet").names
