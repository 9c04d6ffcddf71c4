"""Reliability diagrams: whether confidences are as high as the accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rgjax.metrics import calibration_error, confidence_bins
from rgjax.report.plots.predictions import Outcome
from rgjax.report.plots.style import MUTED, in_percent, method_color, panel_grid
from rgjax.report.runs import Entry
from rgjax.report.text import shorten


def reliability(outcomes: Mapping[Entry, Sequence[Outcome]]) -> Figure | None:
    """Accuracy against confidence in bins of equal mass, a panel for each entry.

    The predictions of all runs are pooled.
    """
    if not outcomes:
        return None
    figure, panels, columns = panel_grid(len(outcomes), width=2.6, height=2.9)
    for i, ((entry, of_runs), axes) in enumerate(zip(outcomes.items(), panels, strict=True)):
        _draw(axes, entry, of_runs)
        axes.set_xlabel("" if i + columns < len(outcomes) else "confidence (%)")
        axes.set_ylabel("" if i % columns else "accuracy (%)")
    low = min(np.asarray(line.get_xydata()).min() for axes in panels for line in axes.lines)
    bottom = max(0, np.floor(10 * low) / 10)
    for axes in panels:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
        axes.set(xlim=(bottom - 0.02, 1.02), ylim=(bottom - 0.02, 1.02))
        in_percent(axes.xaxis, ticks=4)
        in_percent(axes.yaxis, ticks=4)
    return figure


def _draw(axes: Axes, entry: Entry, outcomes: Sequence[Outcome]) -> None:
    """The bins before and after calibration; the legend has the mean ECE."""
    _draw_bins(axes, [o.trained for o in outcomes], "as trained", color=MUTED, marker="o", mfc="white")
    if calibrated := [o.calibrated for o in outcomes if o.calibrated is not None]:
        temperature = np.mean([o.temperature for o in outcomes if o.temperature is not None])
        _draw_bins(axes, calibrated, f"T = {temperature:.3g}", color=method_color(entry), marker="s")
    title = shorten(entry.name)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), title=title, alignment="left", borderpad=0, borderaxespad=0.4)


def _draw_bins(axes: Axes, runs: Sequence[tuple[np.ndarray, np.ndarray]], label: str, **style: Any) -> None:
    """Mean confidence and accuracy of each bin of the pooled runs."""
    confidences, correct = map(np.concatenate, zip(*runs, strict=True))
    points = reliability_bins(confidences, correct)
    error = np.mean([calibration_error(*run) for run in runs])
    axes.plot(*points.T, label=f"{label}: ECE {100 * error:.1f} %", linewidth=0.9, **style)


def reliability_bins(confidences: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Mean confidence and accuracy of each bin that has examples [bins, 2]."""
    bins = confidence_bins(confidences)
    sizes = np.bincount(bins)
    sums = [np.bincount(bins, values) for values in (confidences, correct)]
    return np.column_stack(sums)[sizes > 0] / sizes[sizes > 0, None]
