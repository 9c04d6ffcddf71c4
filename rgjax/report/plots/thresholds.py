"""Balanced accuracy at the argmax and tuned, beside AP, which has no threshold."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rgjax.regroup.aggregation import AGGREGATIONS
from rgjax.report.plots.style import MUTED, RG, in_percent, legend_below, new_figure
from rgjax.report.study import Score, Study, score_of
from rgjax.report.text import shorten

_COLUMNS = "test_ba", "test_tuned_ba", "test_macro_ap"
_COLOR, _GAP = "#0072B2", 6  # points between a marker and its number


def thresholds(study: Study) -> Figure | None:
    """A line from BA at the argmax to tuned BA, for each entry and aggregation."""
    scores = _scores(study)
    if not any(tuned for _, tuned, _ in scores.values()):
        return None
    figure, panels = new_figure(1, 2, width=4.0, height=1.1 + 0.26 * len(scores), sharey=True)
    for y, (argmax, tuned, ap) in enumerate(scores.values()):
        _draw_dumbbell(panels[0], y, argmax, tuned)
        if ap:
            panels[1].errorbar(ap.mean, y, xerr=ap.std or 0, fmt="s", color=RG, capsize=2.5)
    for axes, title in zip(panels, ("balanced accuracy (%), test", "macro AP (%), test"), strict=True):
        axes.set(title=title, ylim=(len(scores) - 0.4, -0.6))
        axes.margins(x=0.2)
        axes.grid(visible=False, axis="y")
        in_percent(axes.xaxis)
    panels[0].set_yticks(range(len(scores)), list(scores))
    legend_below(figure, columns=3)
    return figure


def _scores(study: Study) -> dict[str, tuple[Score | None, ...]]:
    """Tick label -> argmax BA, tuned BA, macro AP.

    Methods that regroup have a row for each aggregation.
    """
    rows = {}
    for entry in study.entries:
        runs, name = study.finished(entry), shorten(entry.name)
        suffixes = {f"{name}, {how}": f"_{how}" for how in AGGREGATIONS} if entry.regroups else {name: ""}
        for label, suffix in suffixes.items():
            scores = tuple(score_of(run.row[f"{column}{suffix}"] for run in runs) for column in _COLUMNS)
            if scores[0]:
                rows[label] = scores
    return rows


def _draw_dumbbell(axes: Axes, y: int, argmax: Score | None, tuned: Score | None) -> None:
    """Both means with their numbers outside, the lower one's on the left."""
    ends = [score.mean for score in (argmax, tuned) if score]
    axes.plot(ends, [y] * len(ends), color=MUTED, linewidth=1.2, zorder=1)
    for score, marker, face, label in ((argmax, "o", "white", "argmax"), (tuned, "D", _COLOR, "tuned")):
        if score:
            axes.plot(score.mean, y, marker, color=_COLOR, markerfacecolor=face, label=label)
            side = 1 if score.mean == max(ends) and len(ends) > 1 else -1
            axes.annotate(
                f"{100 * score.mean:.1f}",
                (score.mean, y),
                (side * _GAP, 0),
                textcoords="offset points",
                fontsize=7,
                ha="left" if side > 0 else "right",
                va="center",
            )
