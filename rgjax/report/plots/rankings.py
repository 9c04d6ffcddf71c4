"""ROC and precision-recall curves of each class, with the points that were chosen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rgjax.report.plots.predictions import Outcome, classes_with_curves
from rgjax.report.plots.style import MUTED, legend_below, line_styles, panel_grid, quarters
from rgjax.report.runs import Entry
from rgjax.report.study import CE, Study
from rgjax.report.text import shorten

_MAX_COLORED = 6  # entries; the others are gray
_GRAY = "#C4C4C4"
_RECALL, _PRECISION, _FALSE_POSITIVES = range(3)  # rows of a curve
_TITLES = "recall", "precision", "false positive rate"
_CHOICES = {"argmax": "white", "tuned": None}  # face color of the points; None: the color of the entry


def roc(study: Study, outcomes: Mapping[Entry, Sequence[Outcome]]) -> Figure | None:
    """Recall against the false positive rate, a panel for each class."""
    return _draw(study, outcomes, x=_FALSE_POSITIVES, y=_RECALL)


def precision_recall(study: Study, outcomes: Mapping[Entry, Sequence[Outcome]]) -> Figure | None:
    """Precision against recall, a panel for each class."""
    return _draw(study, outcomes, x=_RECALL, y=_PRECISION)


def colored_entries(study: Study, entries: Iterable[Entry]) -> list[Entry]:
    """CE, RG and those of the highest macro AP on validation, in the given order."""

    def rank(entry: Entry) -> tuple[bool, float]:
        scores = [run.row["val_macro_ap"] for run in study.finished(entry)]
        return entry not in (CE, Entry("rg")), -float(np.mean(scores))

    entries = list(entries)
    kept = sorted(entries, key=rank)[:_MAX_COLORED]
    return [entry for entry in entries if entry in kept]


def _draw(study: Study, outcomes: Mapping[Entry, Sequence[Outcome]], x: int, y: int) -> Figure | None:
    names = [
        name
        for name in classes_with_curves(study)
        if any(name in outcome.curves for of_runs in outcomes.values() for outcome in of_runs)
    ]
    if not names:
        return None
    colored = colored_entries(study, outcomes)
    styles = line_styles(colored)
    figure, panels, columns = panel_grid(len(names), width=2.6, height=2.5)
    for i, (name, axes) in enumerate(zip(names, panels, strict=True)):
        for entry in sorted(outcomes, key=lambda entry: entry not in styles):
            of_class = [outcome for outcome in outcomes[entry] if name in outcome.curves]
            if of_class:
                _draw_entry(axes, of_class, name, (x, y), styles.get(entry))
        share = np.mean([o.shares[name] for of_runs in outcomes.values() for o in of_runs if name in o.shares])
        chance = [share, share] if y == _PRECISION else [0, 1]
        axes.plot([0, 1], chance, color=MUTED, linewidth=0.8, linestyle=":", zorder=1, label="chance")
        axes.set(title=shorten(name), xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        axes.set_xlabel("" if i + columns < len(names) else _TITLES[x])
        axes.set_ylabel("" if i % columns else _TITLES[y])
        quarters(axes)
    for choice, face in _CHOICES.items():
        if any(getattr(outcome, choice) for of_runs in outcomes.values() for outcome in of_runs):
            panels[0].plot([], [], "o", color=MUTED, markerfacecolor=face or MUTED, label=choice)
    legend_below(figure, columns=2 * columns)
    return figure


def _draw_entry(
    axes: Axes, outcomes: Sequence[Outcome], name: str, rows: tuple[int, int], style: Mapping[str, Any] | None
) -> None:
    """The mean curve of the runs, and the mean points that their labels are at."""
    curve = np.mean([outcome.curves[name] for outcome in outcomes], axis=0)
    x, y = curve[list(rows)]
    steps = "default"
    if rows[0] == _FALSE_POSITIVES:  # a step to the right at the recall reached so far
        x, y, steps = np.array([0, *x, 1]), np.array([0, *y, 1]), "steps-post"
    if style is None:
        axes.plot(x, y, color=_GRAY, linewidth=0.7, drawstyle=steps, zorder=1, label="other methods")
        return
    axes.plot(x, y, **style, markevery=[], drawstyle=steps)
    for choice, face in _CHOICES.items():
        points = [getattr(outcome, choice)[name] for outcome in outcomes if getattr(outcome, choice)]
        if points:
            point = np.mean(points, axis=0)[list(rows)]
            color = style["color"]
            axes.plot(*point, style["marker"], color=color, markerfacecolor=face or color, zorder=3)
