"""The commands that a command prints work where the user is."""

import shlex
import sys

import pytest

from rgjax.edges.shell import shell_line


@pytest.fixture
def called(monkeypatch):
    def call(program, orig, **environment):
        monkeypatch.setattr(sys, "argv", [program])
        monkeypatch.setattr(sys, "orig_argv", orig)
        monkeypatch.delenv("UV", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return call


def test_as_a_module(called):
    called("/src/rgjax/data/inspect.py", ["python3", "-m", "rgjax.data.inspect"])
    assert shell_line("main", "--config=images.py") == "python3 -m rgjax.main --config=images.py"
    called("/src/rgjax/data/inspect.py", ["/venv/bin/python", "-m", "rgjax.data.inspect"], UV="/bin/uv")
    assert shell_line("report", "runs") == "uv run python -m rgjax.report runs"


def test_as_an_installed_script(called, tmp_path):
    script = tmp_path / "my programs" / "rgjax-inspect"
    script.parent.mkdir()
    script.touch(mode=0o755)
    called(str(script), ["python", str(script)], PATH="/bin")
    beside = shlex.split(shell_line("main", "--config.data.manual_dir=my photos"))
    assert beside == [str(script.with_name("rgjax-train")), "--config.data.manual_dir=my photos"]
    called(str(script), ["python", str(script)], PATH=str(script.parent))
    assert shell_line("main") == "rgjax-train"
    assert shell_line("data.inspect", "a b") == "rgjax-inspect 'a b'"
