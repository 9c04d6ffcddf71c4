"""Figures of the grid search: balanced accuracy against each hyper-parameter."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rgjax.report.plots.style import RG, in_percent, literal, new_figure, short
from rgjax.report.runs import Label, Run, shown
from rgjax.report.study import Study, score_of

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def hyper_parameters(study: Study, label: Label) -> Figure | None:
    """A panel for each hyper-parameter that stage 1 varied, in it a line for each setting of the others."""
    runs = study.finished(label, stage=1)
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: _in_order({run.settings[name] for run in runs if name in run.settings}) for name in names}
    varied = {name: found for name, found in values.items() if len(found) > 1}
    if not varied:
        return None
    figure, panels = new_figure(1, len(varied), width=max(3.2, 7.2 / len(varied)), height=3.2)
    chosen = next((run.settings for run in study.of(label, 2)), {})
    for (name, found), axes in zip(varied.items(), panels, strict=True):
        _draw(axes, runs, name, found, others=[other for other in varied if other != name])
        if chosen.get(name) in found:
            axes.axvline(found.index(chosen[name]), color=RG, linewidth=1, linestyle=":", label="chosen")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1 if len(varied) > 1 else 3)
    panels[0].set_ylabel("balanced accuracy (%)")
    return figure


def _draw(axes: Axes, runs: Sequence[Run], name: str, values: list, others: Sequence[str]) -> None:
    lines: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if name in run.settings:
            setting = shown({other: run.settings.get(other) for other in others})
            lines[setting][values.index(run.settings[name])].append(run)
    for i, (setting, points) in enumerate(lines.items()):
        for column, dashes, part in (("val_ba", "-", "validation"), ("test_ba", "--", "test")):
            text = literal(", ".join(filter(None, (setting, part))))
            _draw_line(axes, points, column, color=_COLORS[i % len(_COLORS)], linestyle=dashes, label=text)
    axes.set_xlabel(literal(name))
    axes.set_xticks(range(len(values)), [short(value, 12) for value in values])
    axes.margins(x=0.08)
    in_percent(axes.yaxis)


def _draw_line(axes: Axes, points: Mapping[int, list[Run]], column: str, **how: Any) -> None:
    scores = {x: score for x in sorted(points) if (score := score_of(run.row[column] for run in points[x]))}
    means, spread = [score.mean for score in scores.values()], [score.std or 0 for score in scores.values()]
    axes.errorbar(list(scores), means, yerr=spread, marker="o", capsize=2, elinewidth=0.8, **how)


def _in_order(values: set[Any]) -> list[Any]:
    """Numbers by size, then the others by name."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    return sorted(numbers) + sorted(values - set(numbers), key=str)
