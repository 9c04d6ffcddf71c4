"""Standard streams that are closed, full, broken or of a narrow encoding: no traceback, and a sensible exit code."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.finished import digits_run

ROOT = Path(__file__).parents[2]
PYTHON = shlex.quote(sys.executable)
PROGRAM = """
import logging, sys
from rgjax.edges import start
start.guard_command()
from rgjax.console import configure_logging, exit_codes
configure_logging()
with exit_codes():
    {body}
"""
WRITES = """
    for i in range({count}):
        print("row", i, "日本語")
        logging.getLogger("rgjax").warning(f"message {{i}} 日本語")
    open({path!r}, "w").close()
    sys.stdin.read(1)
"""


def shell(command, **more):
    """Exit code and errors of a command of bash, where a pipe's code is that of its first part."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": ""} | more, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("redirection", "code", "line"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">/dev/full", 2, "rgjax: standard output: No space left on device"),
        ("| head -1", 1, ""),
        ("2>&1 >/dev/null | head -1", 0, ""),
    ],
)
@pytest.mark.parametrize("count", [1, 3000])
def test_streams_that_are_closed_full_or_broken(redirection, code, line, count, tmp_path):
    if count == 1 and "head" in redirection:
        pytest.skip("head reads all of it")
    done = tmp_path / "done"
    program = PROGRAM.format(body=WRITES.format(count=count, path=str(done)))
    process = shell(f"{PYTHON} -c {shlex.quote(program)} {'' if '<' in redirection else '</dev/null'} {redirection}")
    errors = [text for text in process.stderr.splitlines() if not text.startswith("rgjax: message")]
    assert (process.returncode, errors) == (code, [line] if line else [])
    assert done.exists() or (code and count > 1)
    assert not done.read_text() if done.exists() else True


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii:strict"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
    ids=str,
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_text_that_the_encoding_lacks_is_escaped(environment, stream):
    program = PROGRAM.format(body=f"print('\\u72ac', '\\udcff', file=sys.{stream})")
    process = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, cwd=ROOT
    )
    assert process.returncode == 0
    assert getattr(process, stream).decode() in ("\\u72ac \\udcff\n", "犬 \\udcff\n")


def test_an_error_of_the_user_is_told_though_the_output_is_full():
    body = "print('row'); from rgjax.errors import UserError; raise UserError('x=1: wrong')"
    process = shell(f"{PYTHON} -c {shlex.quote(PROGRAM.format(body=body))} >/dev/full")
    assert (process.returncode, process.stderr) == (2, "rgjax: x=1: wrong\n")


@pytest.fixture
def animals(tmp_path):
    for name in ("犬", "猫"):
        for i in range(20):
            path = tmp_path / "animals" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (len(name), i, ord(name) % 256)).save(path)
    return tmp_path / "animals"


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_run_with_kanji_prints_its_result_in_a_narrow_encoding(animals, tmp_path, encoding):
    small = "--config.data.image_size=16 --config.encoder.name=projection --config.model.name=resnet10 "
    small += "--config.model.width=8 --config.train.epochs=1 --config.train.batch_size=8"
    words = f"rgjax.main --config=configs/images_scratch.py:ce --config.data.manual_dir={animals} {small}"
    command = f"{PYTHON} -m {words} --workdir={tmp_path / 'run'}"
    for _ in range(2):  # trained, and read again
        process = shell(command, PYTHONIOENCODING=encoding)
        assert process.returncode == 0, process.stderr
        assert r"\u72ac" in process.stdout
    assert shell(f"{command} >/dev/full").returncode == 2
    assert shell(f"{command} | head -1").returncode in (0, 1)
    inspected = shell(f"{PYTHON} -m rgjax.data.inspect {animals}", PYTHONIOENCODING=encoding)
    assert (inspected.returncode, "Traceback" in inspected.stderr) == (0, False)


@pytest.mark.long
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full", "| head -1"])
def test_commands_with_odd_streams(redirection, tmp_path):
    workdir = digits_run("rg")
    for words in (
        f"rgjax.report {workdir}",
        f"rgjax.predict --workdir={workdir} {workdir / 'groups'}",
        "rgjax.main --help",
        f"rgjax.data.inspect {workdir}",
    ):
        process = shell(f"{PYTHON} -m {words} {redirection}")
        assert process.returncode in (0, 1, 2), words
        assert "Traceback" not in process.stderr and "ignored" not in process.stderr, words
