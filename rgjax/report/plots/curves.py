"""Figures of the grid search: balanced accuracy against each hyper-parameter."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rgjax.report.plots.style import RG, in_percent, new_figure
from rgjax.report.runs import Entry, RunRecord, format_settings
from rgjax.report.study import Study, score_of
from rgjax.report.text import escape_mathtext, shorten

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def hyper_parameters(study: Study, entry: Entry) -> Figure | None:
    """A panel for each tuned hyper-parameter, a line for each setting of the rest."""
    runs = study.finished(entry, stage=1)
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: _in_order({run.settings[name] for run in runs if name in run.settings}) for name in names}
    varied = {name: grid for name, grid in values.items() if len(grid) > 1}
    if not varied:
        return None
    figure, panels = new_figure(1, len(varied), width=max(3.2, 7.2 / len(varied)), height=3.2)
    chosen = next((run.settings for run in study.runs_of(entry, 2)), {})
    for (name, grid), axes in zip(varied.items(), panels, strict=True):
        _draw(axes, runs, name, grid, remaining=[each for each in varied if each != name])
        if chosen.get(name) in grid:
            axes.axvline(grid.index(chosen[name]), color=RG, linewidth=1, linestyle=":", label="chosen")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1 if len(varied) > 1 else 3)
    panels[0].set_ylabel("balanced accuracy (%)")
    return figure


def _draw(axes: Axes, runs: Sequence[RunRecord], name: str, values: list, remaining: Sequence[str]) -> None:
    """Validation (solid) and test (dashed) scores against the hyper-parameter `name`."""
    lines: dict[str, dict[int, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if name in run.settings:
            setting = format_settings({each: run.settings.get(each) for each in remaining})
            lines[setting][values.index(run.settings[name])].append(run)
    for i, (setting, points) in enumerate(lines.items()):
        for column, dashes, split in (("val_ba", "-", "validation"), ("test_ba", "--", "test")):
            label = escape_mathtext(", ".join(filter(None, (setting, split))))
            _draw_line(axes, points, column, color=_COLORS[i % len(_COLORS)], linestyle=dashes, label=label)
    axes.set_xlabel(escape_mathtext(name))
    axes.set_xticks(range(len(values)), [shorten(value, 12) for value in values])
    axes.margins(x=0.08)
    in_percent(axes.yaxis)


def _draw_line(axes: Axes, points: Mapping[int, list[RunRecord]], column: str, **style: Any) -> None:
    scores = {x: score for x in sorted(points) if (score := score_of(run.row[column] for run in points[x]))}
    means, deviations = [score.mean for score in scores.values()], [score.std or 0 for score in scores.values()]
    axes.errorbar(list(scores), means, yerr=deviations, marker="o", capsize=2, elinewidth=0.8, **style)


def _in_order(values: set[Any]) -> list[Any]:
    """Numbers in ascending order, then texts."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    return sorted(numbers) + sorted(values - set(numbers), key=str)
