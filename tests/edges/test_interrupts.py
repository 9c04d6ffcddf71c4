"""Ctrl-C at any moment of any command: exit code 130 and one line, never a traceback, never swallowed.

RGJAX_INTERRUPTS=200 uv run pytest -m soak tests/edges/test_interrupts.py -n 0 -s
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from rgjax.storage.files import cache_dir
from tests.support.finished import digits_run

ROOT = Path(__file__).parents[2]
LATEST = 5.0  # seconds
AT_ONCE = 2  # cores


SMALL = [
    "--config=configs/digits.py",
    "--config.data.image_size=16",
    "--config.model.name=resnet10",
    "--config.model.width=8",
    "--config.train.checkpoint_steps=5",
]


def command_lines(folder: Path) -> dict[str, list[str]]:
    """The words of each command, on small data; NEW stands for a new folder."""
    workdir = digits_run("rg")
    for index in range(2):
        for number in range(20):
            path = folder / "photos" / f"class {index}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (index, number, 0)).save(path)
    return {
        "main": [*SMALL, f"--workdir={folder / 'NEW'}"],
        "sweep": [*SMALL, "--quick", f"--workdir={folder / 'NEW'}"],
        "report": [str(workdir)],
        "preflight": ["--config=configs/digits.py", "--target=a100"],
        "predict": [f"--workdir={workdir}", str(workdir / "groups")],
        "data.inspect": [str(folder / "photos")],
    }


def interrupt(name: str, words: list[str], after: float) -> tuple[str, str]:
    """Send SIGINT to a command; return how it ended, and its standard error.

    It ends "interrupted" by rgjax, "finished" before, "killed" by the system, before Python handles signals, or
    "starting", while Python itself starts and none of rgjax's code has run. All else is an error.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", f"rgjax.{name}", *words],
        cwd=ROOT,
        env=os.environ | {"RGJAX_CACHE": str(cache_dir())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # A shell's background ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return "swallowed", process.communicate()[1]
    lines = [line for line in err.splitlines() if line.startswith("rgjax: interrupted")]
    traceback = "Traceback" in err or "ignored in" in err
    match process.returncode, len(lines), traceback:
        case 130, 1, False:
            return "interrupted", err
        case 0 | 2, 0, False:
            return "finished", err
        case -2, 0, False:
            return "killed", err
        case ((-2 | 1), 0, True) if not re.search(r"rgjax/(?!__init__|edges/(__init__|start|hold))", err):
            return "starting", err
    return f"exit code {process.returncode}", err


def interrupt_often(folder: Path, tries: int, names=(), *, latest: float = LATEST) -> Counter:
    """Count how commands end that are interrupted at random moments."""
    rng, lines, faults = random.Random(tries), command_lines(folder), []
    names = names or list(lines)
    moments = [(i, names[i % len(names)], rng.uniform(0, latest)) for i in range(tries)]

    def attempt(moment):
        i, name, after = moment
        ending, err = interrupt(name, [word.replace("NEW", str(i)) for word in lines[name]], after)
        if ending not in ("interrupted", "finished", "killed", "starting"):
            faults.append(f"{name} after {after:.2f} s: {ending}: {err}")
        return ending

    with ThreadPoolExecutor(AT_ONCE) as threads:
        endings = Counter(threads.map(attempt, moments))
    assert not faults, f"{dict(endings)}\n" + "\n".join(faults)
    return endings


def test_ctrl_c_in_the_first_second_of_two_commands(tmp_path):
    endings = interrupt_often(tmp_path, 4, ["report", "main"], latest=0.6)
    assert endings.total() == 4


@pytest.mark.long
def test_ctrl_c_at_two_moments_of_each_command(tmp_path):
    endings = interrupt_often(tmp_path, 12)
    assert endings["starting"] <= 1


@pytest.mark.soak
def test_ctrl_c_at_random_moments(tmp_path):
    tries = int(os.environ.get("RGJAX_INTERRUPTS", "200"))
    endings = interrupt_often(tmp_path, tries)
    print(dict(endings))
    assert endings["starting"] <= 1 + tries // 50  # Python takes some hundredths of a second to start
