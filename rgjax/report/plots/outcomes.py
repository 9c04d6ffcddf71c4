"""Figures of what single runs predicted and how they trained: precision and recall, confusion, training."""

from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rgjax.metrics import log_odds
from rgjax.report.plots.style import MUTED, in_percent, legend_below, line_styles, new_figure, short
from rgjax.report.reading import read_history, read_test_logits
from rgjax.report.runs import Run
from rgjax.report.study import Study

_POINTS = 200  # of a precision-recall curve


def precision_recall(study: Study) -> Figure | None:
    """A panel for each class, a line for each label: the first reported seed that has predictions."""
    found = {}
    for label in study.labels:
        predictions = (read_test_logits(run) for run in study.finished(label))
        if first := next((p for p in predictions if p is not None), None):
            found[label] = first
    if not found:
        return None
    styles, names = line_styles(list(found)), list(study.counts)
    columns = min(3 if len(names) != 4 else 2, len(names))
    figure, panels = new_figure(-(-len(names) // columns), columns, width=2.6, height=2.5)
    for c, (name, axes) in enumerate(zip(names, panels, strict=False)):
        for label, (logits, labels) in found.items():
            if c < logits.shape[1] and (labels == c).any():
                axes.plot(*precision_recall_curve(log_odds(logits)[:, c], labels == c), **styles[label])
        chance = np.mean(next(iter(found.values()))[1] == c)
        axes.axhline(float(chance), color=MUTED, linewidth=0.8, linestyle=":", label="chance")
        axes.set(title=short(name), xlim=(0, 1), ylim=(0, 1.02), ylabel="" if c % columns else "precision")
        axes.set_xlabel("" if c + columns < len(names) else "recall")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    legend_below(figure, panels[0], columns=2 * columns)
    return figure


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at the thresholds [n] at which a positive is found, thinned where there are many."""
    own = np.sort(scores[positive])[::-1]
    others = np.sort(scores[~positive])
    hits = len(own) - np.searchsorted(own[::-1], own)  # ties share a threshold
    drawn = hits + len(others) - np.searchsorted(others, own)
    kept = np.unique(np.linspace(0, len(own) - 1, _POINTS).round().astype(int))
    return (hits / len(own))[kept], (hits / drawn)[kept]


def confusion(study: Study) -> Figure | None:
    """Rows are the true classes. Counts are summed over seeds, the color is the share of the row."""
    sums = {label: _summed(study.finished(label), len(study.counts)) for label in study.labels}
    sums = {label: counts for label, counts in sums.items() if counts is not None}
    if not sums:
        return None
    names, size = [short(name, 12) for name in study.counts], max(1.8, 0.34 * len(study.counts))
    columns = min(len(sums), max(1, int(10 / size)))
    figure, panels = new_figure(-(-len(sums) // columns), columns, width=size, height=size)
    for i, ((label, counts), axes) in enumerate(zip(sums.items(), panels, strict=False)):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            _write_share(axes, row, column, count, float(shares[row, column]), detailed=len(names) <= 4)
        axes.set_title(short(label.name), fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, labelbottom=i + columns >= len(sums), labelleft=i % columns == 0)
        axes.grid(False)
    for axes in panels[len(sums) :]:
        axes.set_axis_off()
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("true", fontsize=9)
    return figure


def _summed(runs: list[Run], classes: int) -> np.ndarray | None:
    found = [np.array(run.confusion) for run in runs if len(run.confusion) == classes]
    return np.sum(found, axis=0) if found else None


def _write_share(axes: Axes, row: int, column: int, count: int, share: float, *, detailed: bool) -> None:
    text = f"{100 * share:.0f} %\n{count}" if detailed else f"{count}"
    color = "white" if share > 0.55 else "#222222"
    axes.text(column, row, text, ha="center", va="center", fontsize=7 if detailed else 5.5, color=color)


def training(study: Study) -> Figure | None:
    """Loss on the training batches and balanced accuracy on the validation set; means over the reported seeds."""
    curves = {label: _mean_history(study.finished(label)) for label in study.labels}
    curves = {label: curve for label, curve in curves.items() if len(curve)}
    if not any(len(curve) > 1 for curve in curves.values()):
        return None
    styles = line_styles(list(curves))
    figure, panels = new_figure(1, 2, width=3.6, height=3.0)
    for label, curve in curves.items():
        marker = "o" if len(curve) == 1 else None
        for axes, column in zip(panels, (1, 2), strict=True):
            axes.plot(curve[:, 0], curve[:, column], marker=marker, **styles[label])
    for axes, name in zip(panels, ("training loss", "validation BA (%)"), strict=True):
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    in_percent(panels[1].yaxis)
    legend_below(figure, panels[0], columns=5)
    return figure


def _mean_history(runs: list[Run]) -> np.ndarray:
    """Epoch, training loss and validation BA [evaluations, 3] at the steps that all seeds have."""
    histories = [history for run in runs if (history := read_history(run))]
    at_step = defaultdict(list)
    for history in histories:
        for row in history:
            at_step[row["step"]].append((row["epoch"], row["train_loss"], row["val_ba"]))
    return np.array([np.mean(rows, axis=0) for _, rows in sorted(at_step.items()) if len(rows) == len(histories)])
