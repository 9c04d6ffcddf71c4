"""How the figures look: one size of type, colors that color-blind readers tell apart, the same bits each time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rgjax.report.runs import Label
from rgjax.storage.files import atomic_path

# Okabe and Ito's colors and three of Tol's: what belongs to a loss or a sampler keeps its color with regrouping.
_COLORS = {
    "ce": "#000000",
    "wce": "#E69F00",
    "focal": "#56B4E9",
    "ldam": "#009E73",
    "la": "#CC79A7",
    "ros": "#0072B2",
    "rus": "#D55E00",
    "rusc": "#999933",
    "dsmt": "#777777",
}
RG = "#882255"  # the maroon of the paper
MUTED = "#777777"
_DASHES = (
    "-",
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (6, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (2, 1)),
)  # variants of one method with regrouping

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "svg.hashsalt": "rgjax",
}


def style():
    """The context in which every figure is drawn and saved."""
    return matplotlib.rc_context(_STYLE)  # pyright: ignore[reportArgumentType]


def new_figure(
    rows: int, columns: int, *, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A grid of panels, each `width` x `height` inches, as a list."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """NAME.png and NAME.svg, without the date."""
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    for path, unset in ((png, "Software"), (svg, "Date")):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=160, metadata={unset: None})
        figure.set_layout_engine("none")  # it is laid out by now, which takes as long as to draw it
    return png, svg


def line_styles(labels: Sequence[Label]) -> dict[Label, dict[str, Any]]:
    """Regrouping in full lines, and otherwise dashed for its variants; the baselines thin."""
    styles, seen = {}, dict.fromkeys((label.method for label in labels), 0)
    for label in labels:
        dashes = _DASHES[seen[label.method] % len(_DASHES)]
        seen[label.method] += 1
        color = RG if label.method == "rg" else _COLORS.get(label.partner, MUTED)
        width, dashes = (1.7, dashes) if label.regroups else (0.9, (0, (3, 1.2)))
        styles[label] = {"color": color, "linewidth": width, "linestyle": dashes, "label": literal(label.name)}
    return styles


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)))


def in_percent(axis: Axis) -> None:
    """Shares as percent, without the sign: it belongs to the axis's name."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}"))


def literal(text: object) -> str:
    """User text, in which a dollar sign begins no formula."""
    return str(text).replace("$", r"\$")


def short(text: object, length: int = 28) -> str:
    text = " ".join(str(text).split())
    return literal(text if len(text) <= length else text[: length - 1] + "…")
