"""Whatever a file holds, its reader refuses it in one line or returns what it promises."""

import importlib.util
import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, report

PIECES = [
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff\0", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\x1b[31m",
    b"\r", b"\n\n", b"\xc2\x85", b'"', b'""', b",", b";", b"\t", b"@", b"=", b"{", b"}", b"[", b"]", b"null", b"true",
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"0.5", b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 2000,
    b"a" * 200_000, b"\xff" * 8, (2**60).to_bytes(8, "little"), "\u202e\u00e9\U0001f600".encode(), b"://", b"~x/../",
]  # fmt: skip


pytestmark = pytest.mark.long


@cache
def seeds(name):
    return TARGETS[name].seeds()


@st.composite
def contents(draw, name):
    """Valid content with a few pieces inserted, replaced or cut off; or any bytes."""
    content = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(0, 4))):
        places = st.integers(0, len(content))
        start, end = sorted((draw(places), draw(places)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=6))
        end = draw(st.sampled_from([start, min(start + len(piece), len(content)), end]))
        content = content[:start] + piece + content[end:]
    return draw(st.just(content) | st.binary(max_size=40))


DEEP: list = []
for _ in range(300):
    DEEP = [DEEP]
ODD = [
    None, True, 0, -1, 3.5, float("nan"), float("inf"), 10**400, 2**63, 2**31, "", "8", "\ud800", "a\nb", "gs://x",
    "\0", [], {}, [1], [[1]], {"a": 1}, [None, None], ["a", "b"], DEEP, [float("nan"), 1.0],
]  # fmt: skip


@st.composite
def altered(draw, name):
    """Valid JSON with one value replaced or removed."""
    tree = json.loads(seeds(name)[0])
    holder = tree
    for _ in range(9):
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or draw(st.booleans()):
            break
        holder = holder[key]
    if draw(st.booleans()):
        holder[key] = draw(st.sampled_from(ODD))
    else:
        holder.pop(key)
    return json.dumps(tree).encode()


@pytest.fixture(scope="module", params=TARGETS)
def place(request, tmp_path_factory):
    """A target and a folder for it."""
    folder = tmp_path_factory.mktemp(request.param)
    TARGETS[request.param].prepare(folder)
    return request.param, folder


def test_valid_files_are_read(place):
    name, folder = place
    assert TARGETS[name].run(seeds(name)[0], folder)


@given(data=st.data())
def test_bad_files_are_refused_in_one_line(place, data):
    name, folder = place
    kinds = contents(name) | altered(name) if TARGETS[name].file.endswith(".json") else contents(name)
    TARGETS[name].run(data.draw(kinds), folder)


@pytest.mark.long
def test_every_piece_at_several_offsets(place):
    name, folder = place
    content = seeds(name)[0]
    offsets = 1 if TARGETS[name].check is report else 5  # a report takes 0.1 s
    for piece in PIECES:
        for start in range(0, len(content), max(1, len(content) // offsets)):
            TARGETS[name].run(content[:start] + piece + content[start:], folder)


@pytest.mark.parametrize("name", ["csv", "jsonl", "ham10000", "phrasebank", "settings", "safetensors", "run_result"])
def test_large_or_deep_input_takes_little_time(name, tmp_path):
    target, large = TARGETS[name], b"a" * 3_000_000
    target.prepare(tmp_path)
    begin = time.monotonic()
    for content in (
        large,
        b'"' + large,
        b"text,label\n" + large,
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"\0" * 1_000_000,
    ):
        assert not target.run(content, tmp_path) or name.startswith("run")
    assert time.monotonic() - begin < 20


@pytest.mark.long
def test_fuzz_command_reports_its_executions(tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: uv run --with atheris pytest tests/test_fuzz.py")
    command = [sys.executable, "-m", "tests.fuzz", "phrasebank", "--seconds=2", f"--folder={tmp_path}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    executions = int(done.stdout.splitlines()[-1].split("|")[2])
    assert executions > 100
