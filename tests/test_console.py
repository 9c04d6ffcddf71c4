"""Tables and progress bars."""

import itertools
import sys

from rgjax.console import progress, table


def test_a_table_is_aligned_by_its_widest_cells():
    rows = [("class", "n", "note"), ("a", 10, None), ("longer", 7), ("b", None, "see")]
    assert table(rows, "<><").splitlines() == [
        "  class    n  note",
        "  a       10",
        "  longer   7",
        "  b           see",
    ]


def test_progress_writes_fewer_lines_to_a_log_than_to_a_terminal(capsys, monkeypatch):
    def lines_drawn():
        bar = progress(what="train", total=40, unit="step")
        seconds = itertools.count(bar.start_t)
        bar._time = lambda: next(seconds)
        for _ in range(40):
            bar.update()
        bar.close()
        return capsys.readouterr().err.count("train")

    in_log = lines_drawn()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert in_log < lines_drawn() / 3
