"""The figures of a section, how speed is timed, and the table of all sections."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERDICTS = ("same_bits", "equals_reference")  # False says that something is wrong
COLUMNS = ("examples_per_s", "mfu", "of_prediction", *VERDICTS)


class Figures:
    """Figures of a section by case, on disk at once: a section that is cut off keeps what it has."""

    def __init__(self, path: Path, tiny: bool):
        self.path, self.tiny = path, tiny
        self._cases: dict[str, dict[str, Any]] = {}

    def add(self, case: str, **values: Any) -> None:
        self._cases.setdefault(case, {}).update(values)
        self.path.write_text(json.dumps(self._cases, indent=2))
        print(case, values, flush=True)

    def get(self, case: str) -> dict[str, Any]:
        return self._cases.get(case, {})


def speed(run: Callable[[int], None], examples: int, *, tiny: bool, seconds: float = 3.0) -> dict[str, Any]:
    """Median of three timings of `run(steps)`, which trains for some steps of `examples` each and waits for the end.

    `spread_ms` are the shortest and the longest of the three, per step.
    """
    steps = 1
    run(1)  # compiles
    if not tiny:
        run(5)
        started = time.perf_counter()
        run(5)
        steps = max(5, int(seconds / 3 * 5 / (time.perf_counter() - started)))
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run(steps)
        times.append((time.perf_counter() - started) / steps)
    step = statistics.median(times)
    return {
        "step_ms": 1000 * step,
        "spread_ms": [1000 * min(times), 1000 * max(times)],
        "examples_per_s": examples / step,
    }


def table(results: dict[str, dict], *, tiny: bool = False) -> str:
    """Sections with their outcomes, cases with the figures that matter, and ours against torch's where both are.

    The tiny sizes of the two differ.
    """
    rows = [("", *(name.replace("_", " ") for name in COLUMNS))]
    for section, result in results.items():
        rows.append((f"{section}: {result['outcome']}", *("" for _ in COLUMNS)))
        for case, values in result.get("cases", {}).items():
            rows.append((f"  {case}", *(_cell(values.get(name)) for name in COLUMNS)))
    widths = [max(len(row[i]) for row in rows if i or any(row[1:])) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    ratios = [
        f"{name}: {ours / theirs:.2f} times torch's speed"
        for name in ("resnet224", "bert", "resnet32")
        if (ours := fastest(results, name)) and (theirs := fastest(results, f"torch_{name}")) and not tiny
    ]
    return "\n".join([line.rstrip() for line in lines] + ratios)


def fastest(results: dict[str, dict], section: str) -> float | None:
    cases = results.get(section, {}).get("cases", {}).values()
    return max((case["examples_per_s"] for case in cases if "examples_per_s" in case), default=None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
