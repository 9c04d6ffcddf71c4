"""Style of all figures: sizes, color-blind safe colors, reproducible files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rgjax.config import METHODS
from rgjax.report.runs import Entry
from rgjax.report.text import escape_mathtext
from rgjax.storage.files import atomic_path

# Colors of Okabe and Ito, and of Tol's qualitative schemes.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999933", "#777777")
_MORE_COLORS = ("#332288", "#117733", "#AA4499", "#44AA99", "#661100")
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
    """A figure and the list of its panels, each `width` x `height` inches.

    Args:
        rows, columns: the grid of panels.
        width, height: of a panel, in inches.
        sharey: all panels have the same y-axis.
    """
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME.png and NAME.svg; the same figure gives the same bytes."""
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    for path, unset in ((png, "Software"), (svg, "Date")):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=160, metadata={unset: None})
        figure.set_layout_engine("none")  # the layout is done, and doing it again takes as long as drawing
    return png, svg


def line_styles(entries: Sequence[Entry]) -> dict[Entry, dict[str, Any]]:
    """Thick lines for regrouping, dashed for its variants; thin ones for baselines."""
    styles, variants = {}, dict.fromkeys((entry.method for entry in entries), 0)
    for entry in entries:
        dashes = _DASHES[variants[entry.method] % len(_DASHES)]
        variants[entry.method] += 1
        width, dashes = (1.7, dashes) if entry.regroups else (0.9, (0, (3, 1.2)))
        styles[entry] = {
            "color": method_color(entry),
            "linewidth": width,
            "linestyle": dashes,
            "label": escape_mathtext(entry.name),
        }
    return styles


def method_color(entry: Entry) -> str:
    """The color of a loss or a sampler, with or without regrouping; RG has its own.

    It follows the order of `METHODS`.
    """
    if entry.method == "rg":
        return RG
    baselines = [name for name, method in METHODS.items() if not method.regroups]
    if entry.baseline not in baselines:
        return MUTED
    colors = PALETTE + _MORE_COLORS
    return colors[baselines.index(entry.baseline) % len(colors)]


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)))


def in_percent(axis: Axis) -> None:
    """Show shares in percent, without the sign, which the axis label has."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}"))
