import itertools
import sys

from rgjax.console import progress


def test_a_log_gets_few_lines_and_a_terminal_many(capsys, monkeypatch):
    def drawn():
        bar = progress(what="train", total=40, unit="step")
        seconds = itertools.count(bar.start_t)
        bar._time = lambda: next(seconds)
        for _ in range(40):
            bar.update()
        bar.close()
        return capsys.readouterr().err.count("train")

    lines = drawn()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert lines < drawn() / 3
