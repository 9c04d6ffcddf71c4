"""Figures of the grid search: balanced accuracy against each hyper-parameter."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rgjax.report.plots.style import MUTED, RG, SHAPES, in_percent, legend_below, name_ticks, new_figure
from rgjax.report.runs import Entry, RunRecord
from rgjax.report.study import Study, score_of
from rgjax.report.text import escape_mathtext, shorten

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SPLITS = {"validation": ("val_ba", "-"), "test": ("test_ba", "--")}  # column, dashes
_LEGEND_COLUMNS = 2

Lines: TypeAlias = Mapping[str, Mapping[int, Sequence[RunRecord]]]  # setting of the rest -> position of the value


def hyper_parameters(study: Study, entry: Entry) -> Figure | None:
    """A panel for each tuned hyper-parameter, a line for each setting of the rest."""
    runs = study.finished(entry, stage=1)
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: _in_order({run.settings[name] for run in runs if name in run.settings}) for name in names}
    varied = {name: grid for name, grid in values.items() if len(grid) > 1}
    if not varied:
        return None
    lines = {name: _lines(runs, name, grid, [each for each in varied if each != name]) for name, grid in varied.items()}
    rows = max(-(-len(of_name) // _LEGEND_COLUMNS) for of_name in lines.values())
    width = max(3.2, 7.2 / len(varied))
    figure, panels = new_figure(1, len(varied), width=width, height=3 + 0.18 * rows)
    chosen = next((run.settings for run in study.runs_of(entry, 2)), {})
    for (name, grid), axes in zip(varied.items(), panels, strict=True):
        _draw(axes, lines[name])
        if len(varied) > 1:
            _name_lines(axes, [each for each in varied if each != name], lines[name])
        if chosen.get(name) in grid:
            axes.axvline(grid.index(chosen[name]), color=RG, linewidth=1, linestyle=":", label="chosen")
        axes.set_xlabel(escape_mathtext(name))
        name_ticks(axes, [shorten(value, 12) for value in grid], 0.75 * width)
        axes.margins(x=0.08)
        in_percent(axes.yaxis)
    panels[0].set_ylabel("balanced accuracy (%)")
    legend_below(figure, columns=3)
    return figure


def _lines(runs: Sequence[RunRecord], name: str, values: list, remaining: Sequence[str]) -> Lines:
    lines: dict[str, dict[int, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if name in run.settings:
            setting = ", ".join(shorten(run.settings.get(each, "-"), 20) for each in remaining)
            lines[setting][values.index(run.settings[name])].append(run)
    return lines


def _draw(axes: Axes, lines: Lines) -> None:
    """Validation (solid) and test (dashed) scores by the position of the value."""
    for i, points in enumerate(lines.values()):
        style = {"color": _COLORS[i % len(_COLORS)], "marker": SHAPES[i % len(SHAPES)]}
        for split, (column, dashes) in _SPLITS.items():
            if i == 0 and len(lines) > 1:
                axes.plot([], [], color=MUTED, linestyle=dashes, label=split)  # in the legend
            _draw_line(axes, points, column, linestyle=dashes, label=split, **style)


def _name_lines(axes: Axes, remaining: Sequence[str], lines: Lines) -> None:
    """A legend above the panel: the settings of the lines."""
    solid = axes.containers[:: len(_SPLITS)]
    axes.legend(
        solid,
        list(lines),
        title=escape_mathtext(", ".join(remaining)),
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=_LEGEND_COLUMNS,
    )


def _draw_line(axes: Axes, points: Mapping[int, Sequence[RunRecord]], column: str, **style: Any) -> None:
    scores = {x: score for x in sorted(points) if (score := score_of(run.row[column] for run in points[x]))}
    means, deviations = [score.mean for score in scores.values()], [score.std or 0 for score in scores.values()]
    axes.errorbar(list(scores), means, yerr=deviations, capsize=2, elinewidth=0.8, **style)


def _in_order(values: set[Any]) -> list[Any]:
    """Numbers in ascending order, then texts."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    return sorted(numbers) + sorted(values - set(numbers), key=str)
