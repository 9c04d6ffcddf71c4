"""Figures of confusion matrices and learning curves."""

import math
from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rgjax.report.plots.style import in_percent, legend_below, line_styles, name_ticks, new_figure, panel_grid
from rgjax.report.reading import read_history
from rgjax.report.runs import RunRecord
from rgjax.report.study import Study
from rgjax.report.text import shorten

_MAX_COUNTED, _MAX_NUMBERED = 8, 24  # classes of a confusion matrix with counts, and with percentages
_TICK, _LABELS = 0.17, 1.1  # inches of a tick label's height, and of all labels beside a matrix


def confusion(study: Study) -> Figure | None:
    """Confusion matrices summed over seeds, colored by the share of the true class."""
    matrices = {entry: _sum_over_seeds(study.finished(entry), len(study.counts)) for entry in study.entries}
    matrices = {entry: matrix for entry, matrix in matrices.items() if matrix is not None}
    if not matrices:
        return None
    names = [shorten(name, 12) for name in study.counts]
    size = _matrix_size(len(names))
    room = size - _LABELS if len(names) > _MAX_COUNTED else size
    figure, panels, columns = panel_grid(len(matrices), width=size, height=size, most=max(1, int(12 / size)))
    for i, ((entry, counts), axes) in enumerate(zip(matrices.items(), panels, strict=True)):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(names) <= _MAX_NUMBERED:
            _write_cells(axes, counts, shares)
        axes.set_title(shorten(entry.name), fontsize=8)
        name_ticks(axes, names, room)
        step = math.ceil(_TICK * len(names) / room)
        axes.set_yticks(range(0, len(names), step), names[::step])
        axes.tick_params(length=0, labelbottom=i + columns >= len(matrices), labelleft=i % columns == 0)
        axes.grid(False)
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("true", fontsize=9)
    return figure


def _sum_over_seeds(runs: list[RunRecord], classes: int) -> np.ndarray | None:
    matrices = [np.array(run.confusion) for run in runs if len(run.confusion) == classes]
    return np.sum(matrices, axis=0) if matrices else None


def _matrix_size(classes: int) -> float:
    """Inches that show what is written into the cells."""
    if classes > _MAX_NUMBERED:
        return 5.0
    return max(1.8, 0.34 * classes) if classes <= _MAX_COUNTED else 0.2 * classes + _LABELS


def _write_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Percentages, and counts where there is room."""
    counted = len(counts) <= _MAX_COUNTED
    for (row, column), share in np.ndenumerate(shares):
        if counted or share >= 0.005:
            text = f"{100 * share:.0f} %\n{counts[row, column]}" if counted else f"{100 * share:.0f}"
            color, size = "white" if share > 0.55 else "#222222", 7 if len(counts) <= 4 else 5.5
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color, in_layout=False)


def training(study: Study) -> Figure | None:
    """Training loss and validation BA by epoch, means over the reported seeds."""
    curves = {entry: _mean_history(study.finished(entry)) for entry in study.entries}
    curves = {entry: curve for entry, curve in curves.items() if len(curve)}
    if not any(len(curve) > 1 for curve in curves.values()):
        return None
    styles = line_styles(list(curves))
    figure, panels = new_figure(1, 2, width=3.6, height=3.0)
    for entry, curve in curves.items():
        every = max(1, len(curve) // 8)
        for axes, column in zip(panels, (1, 2), strict=True):
            axes.plot(curve[:, 0], curve[:, column], markevery=every, markersize=3, **styles[entry])
    for axes, name in zip(panels, ("training loss", "validation BA (%)"), strict=True):
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    in_percent(panels[1].yaxis)
    legend_below(figure, columns=5)
    return figure


def _mean_history(runs: list[RunRecord]) -> np.ndarray:
    """Epoch, training loss and validation BA [n, 3] at the steps of all seeds."""
    histories = [history for run in runs if (history := read_history(run))]
    by_step = defaultdict(list)
    for history in histories:
        for row in history:
            by_step[row["step"]].append((row["epoch"], row["train_loss"], row["val_ba"]))
    return np.array([np.mean(rows, axis=0) for _, rows in sorted(by_step.items()) if len(rows) == len(histories)])
