"""Figures of precision and recall, confusion matrices and learning curves."""

from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rgjax.metrics import log_odds
from rgjax.report.plots.style import MUTED, in_percent, legend_below, line_styles, new_figure
from rgjax.report.reading import read_history, read_test_logits
from rgjax.report.runs import RunRecord
from rgjax.report.study import Study
from rgjax.report.text import shorten

_MAX_POINTS = 200  # of a precision-recall curve


def precision_recall(study: Study) -> Figure | None:
    """A panel for each class, with a line for each entry.

    It shows the first reported seed that has predictions.
    """
    predictions = {}
    for entry in study.entries:
        readable = (read_test_logits(run) for run in study.finished(entry))
        if first := next((each for each in readable if each is not None), None):
            predictions[entry] = first
    if not predictions:
        return None
    styles, names = line_styles(list(predictions)), list(study.counts)
    columns = min(3 if len(names) != 4 else 2, len(names))
    figure, panels = new_figure(-(-len(names) // columns), columns, width=2.6, height=2.5)
    for c, (name, axes) in enumerate(zip(names, panels, strict=False)):
        for entry, (logits, labels) in predictions.items():
            if c < logits.shape[1] and (labels == c).any():
                axes.plot(*precision_recall_curve(log_odds(logits)[:, c], labels == c), **styles[entry])
        chance = np.mean(next(iter(predictions.values()))[1] == c)
        axes.axhline(float(chance), color=MUTED, linewidth=0.8, linestyle=":", label="chance")
        axes.set(title=shorten(name), xlim=(0, 1), ylim=(0, 1.02), ylabel="" if c % columns else "precision")
        axes.set_xlabel("" if c + columns < len(names) else "recall")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    legend_below(figure, panels[0], columns=2 * columns)
    return figure


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at the scores of the positives, at most `_MAX_POINTS`."""
    positives, negatives = np.sort(scores[positive])[::-1], np.sort(scores[~positive])
    hits = len(positives) - np.searchsorted(positives[::-1], positives)  # ties share a threshold
    retrieved = hits + len(negatives) - np.searchsorted(negatives, positives)
    kept = np.unique(np.linspace(0, len(positives) - 1, _MAX_POINTS).round().astype(int))
    return (hits / len(positives))[kept], (hits / retrieved)[kept]


def confusion(study: Study) -> Figure | None:
    """Confusion matrices summed over seeds, colored by the share of the true class."""
    matrices = {entry: _sum_over_seeds(study.finished(entry), len(study.counts)) for entry in study.entries}
    matrices = {entry: matrix for entry, matrix in matrices.items() if matrix is not None}
    if not matrices:
        return None
    names, size = [shorten(name, 12) for name in study.counts], max(1.8, 0.34 * len(study.counts))
    columns = min(len(matrices), max(1, int(10 / size)))
    figure, panels = new_figure(-(-len(matrices) // columns), columns, width=size, height=size)
    for i, ((entry, counts), axes) in enumerate(zip(matrices.items(), panels, strict=False)):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            _write_cell(axes, (row, column), count, float(shares[row, column]), detailed=len(names) <= 4)
        axes.set_title(shorten(entry.name), fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, labelbottom=i + columns >= len(matrices), labelleft=i % columns == 0)
        axes.grid(False)
    for axes in panels[len(matrices) :]:
        axes.set_axis_off()
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("true", fontsize=9)
    return figure


def _sum_over_seeds(runs: list[RunRecord], classes: int) -> np.ndarray | None:
    matrices = [np.array(run.confusion) for run in runs if len(run.confusion) == classes]
    return np.sum(matrices, axis=0) if matrices else None


def _write_cell(axes: Axes, cell: tuple[int, int], count: int, share: float, *, detailed: bool) -> None:
    text = f"{100 * share:.0f} %\n{count}" if detailed else f"{count}"
    color = "white" if share > 0.55 else "#222222"
    axes.text(cell[1], cell[0], text, ha="center", va="center", fontsize=7 if detailed else 5.5, color=color)


def training(study: Study) -> Figure | None:
    """Training loss and validation BA by epoch, means over the reported seeds."""
    curves = {entry: _mean_history(study.finished(entry)) for entry in study.entries}
    curves = {entry: curve for entry, curve in curves.items() if len(curve)}
    if not any(len(curve) > 1 for curve in curves.values()):
        return None
    styles = line_styles(list(curves))
    figure, panels = new_figure(1, 2, width=3.6, height=3.0)
    for entry, curve in curves.items():
        marker = "o" if len(curve) == 1 else None
        for axes, column in zip(panels, (1, 2), strict=True):
            axes.plot(curve[:, 0], curve[:, column], marker=marker, **styles[entry])
    for axes, name in zip(panels, ("training loss", "validation BA (%)"), strict=True):
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    in_percent(panels[1].yaxis)
    legend_below(figure, panels[0], columns=5)
    return figure


def _mean_history(runs: list[RunRecord]) -> np.ndarray:
    """Epoch, training loss and validation BA [n, 3] at the steps of all seeds."""
    histories = [history for run in runs if (history := read_history(run))]
    by_step = defaultdict(list)
    for history in histories:
        for row in history:
            by_step[row["step"]].append((row["epoch"], row["train_loss"], row["val_ba"]))
    return np.array([np.mean(rows, axis=0) for _, rows in sorted(by_step.items()) if len(rows) == len(histories)])
