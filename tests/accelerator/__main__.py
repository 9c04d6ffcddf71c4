"""Check rgjax on this machine's accelerator: correct, equal bits, how fast, and beside torch where it is installed.

    python -m tests.accelerator --output=DIR [--deadline=SECONDS] [--only=SECTION,...] [--tiny]

Each section is a process with a time limit of its own; they come in the order of their worth, and what no longer fits
before the deadline is skipped by name. DIR/accelerator.json has every figure, the table those that matter. --tiny uses
the smallest sizes: on a machine without an accelerator, it shows that the check itself works. The exit code is 1 if a
section failed or found something wrong.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tests.accelerator.figures import VERDICTS, Figures, table

ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "tests.accelerator")
LEAST = 20.0  # seconds that any section needs


class Section(NamedTuple):
    """A function `(figures: Figures) -> None` of a module here, and the seconds that it may take."""

    module: str
    function: str
    limit: float


SECTIONS = {
    "machine": Section("machine", "machine", 60),
    "runs": Section("runs", "runs", 150),
    "resnet224": Section("training", "resnet224", 120),
    "bert": Section("training", "bert", 120),
    "torch_resnet224": Section("beside_torch", "resnet224", 90),
    "torch_bert": Section("beside_torch", "bert", 90),
    "kmeans": Section("features", "kmeans", 60),
    "encoder": Section("features", "encoder", 60),
    "resnet32": Section("training", "resnet32", 90),
    "population": Section("training", "population", 90),
    "torch_resnet32": Section("beside_torch", "resnet32", 90),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds for all sections (default 600)")
    parser.add_argument("--only", help=f"sections, separated by commas, of {', '.join(SECTIONS)}")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for any machine")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # what a process of its own computes
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"--only={','.join(unknown)}: no such section; valid: {', '.join(SECTIONS)}")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.section:
        section = SECTIONS[options.section]
        module = import_module(f"tests.accelerator.{section.module}")
        getattr(module, section.function)(Figures(options.output / f"{options.section}.json", options.tiny))
        return 0
    return check(names, options.output, options.deadline, tiny=options.tiny)


def check(names: list[str], output: Path, deadline: float, *, tiny: bool) -> int:
    """Run the sections one after the other; write and print what they found. Returns the exit code."""
    end, results = time.monotonic() + deadline, {}
    for name in names:
        left = end - time.monotonic()
        limit = min(left, deadline if tiny else SECTIONS[name].limit)
        if left < LEAST:
            results[name] = {"outcome": f"skipped: {left:.0f} s before the deadline"}
        else:
            print(f"[{name}] at most {limit:.0f} s", flush=True)
            results[name] = _run(name, output, limit, tiny=tiny)
        (output / "accelerator.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table(results, tiny=tiny))
    wrong = [name for name, result in results.items() if result["outcome"] != "done"]
    return int(any(not results[name]["outcome"].startswith("skipped") for name in wrong))


def _run(name: str, output: Path, limit: float, *, tiny: bool) -> dict:
    """A section in its own process: its figures by case, also if it fails or is cut off, and its outcome."""
    path = output / f"{name}.json"
    path.unlink(missing_ok=True)
    words = [*_COMMAND, f"--section={name}", f"--output={output}", *(["--tiny"] if tiny else [])]
    started = time.monotonic()
    with open(output / f"{name}.log", "w") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
            outcome = "done" if code == 0 else f"failed with code {code}; see {log.name}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = f"cut off after {limit:.0f} s"
    cases = json.loads(path.read_text()) if path.exists() else {}
    wrong = [f"{case}: {name}" for case, values in cases.items() for name in VERDICTS if values.get(name) is False]
    if wrong and outcome == "done":
        outcome = f"wrong: {', '.join(wrong)}"
    return {"outcome": outcome, "seconds": round(time.monotonic() - started, 1), "cases": cases}


if __name__ == "__main__":
    sys.exit(main())
