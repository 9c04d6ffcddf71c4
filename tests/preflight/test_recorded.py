"""Kernels, traffic and memory of programs compiled for an A100, compared with recorded figures; none has atomics.

A higher figure is a regression. If it is intended, or if a figure fell, record the new ones and commit them; this takes
minutes and needs XLA's compiler for CUDA, but no GPU:

    uv sync --extra cuda12
    RENEW_PROGRAMS=1 uv run pytest -n 0 -m long tests/preflight/test_recorded.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from rgjax.preflight import targets

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).with_name("recorded.json")
FIGURES = ("kernels_per_step", "launches_per_step", "bytes_per_step", "temp_memory_bytes")
NONE = ("scatters", "atomics", "f32_convolutions", "host_transfers", "collectives")  # they do not occur
TOLERANCE = 0.01
HAM = "--config=configs/ham10000.py"
PROGRAMS = {
    "ResNet34, 32 pixels": (HAM, "--config.data.image_size=32"),
    "ResNet34, 32 pixels, population of eight": (HAM, "--config.data.image_size=32", "--config.population=8"),
    "ResNet34, 224 pixels": (HAM,),
    "BERT-base": ("--config=configs/phrasebank.py",),
}


@pytest.mark.long
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_programs_keep_the_recorded_figures(name):
    renew = os.environ.get("RENEW_PROGRAMS")
    recorded = json.loads(RECORDED.read_text())
    if not targets.compiler_installed("cuda"):
        pytest.skip("needs XLA's cuda compiler, which is not installed: uv sync --extra cuda12")
    if not renew and recorded[name]["jax"] != jax.__version__:
        pytest.skip(f"recorded with jax {recorded[name]['jax']}; this is {jax.__version__}")
    report = preflight(*PROGRAMS[name])
    assert {figure: report[figure] for figure in NONE if report[figure]} == {}
    figures = {figure: report[figure] for figure in FIGURES}
    if renew:
        recorded[name] = {"jax": jax.__version__, **figures}
        RECORDED.write_text(json.dumps(recorded, indent=2) + "\n")
    assert differences(figures, recorded[name]) == [], __doc__


def test_regressions_and_gains_are_told_apart():
    before = dict.fromkeys(FIGURES, 1000)
    assert differences(before | {"kernels_per_step": 1009}, before) == []
    now = before | {"kernels_per_step": 1011, "bytes_per_step": 900}
    assert differences(now, before) == [
        "kernels_per_step: 1,011, a regression from 1,000",
        "bytes_per_step: 900, better than 1,000; renew the file",
    ]


def differences(figures: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """What is higher or lower than recorded, by more than the tolerance."""
    lines = []
    for figure in FIGURES:
        now, before = figures[figure], recorded[figure]
        if now > before * (1 + TOLERANCE):
            lines.append(f"{figure}: {now:,}, a regression from {before:,}")
        elif now < before * (1 - TOLERANCE):
            lines.append(f"{figure}: {now:,}, better than {before:,}; renew the file")
    return lines


def preflight(*arguments: str) -> dict:
    """The estimate for an A100, from a process of its own: the compiler would stay beside this one's CPU backend."""
    flags = ["--target=a100", "--json", "--no-max-batch", "--no-price"]
    process = subprocess.run(
        [sys.executable, "-m", "rgjax.preflight", *arguments, *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)
