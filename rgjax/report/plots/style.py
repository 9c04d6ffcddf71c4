"""Style of all figures: sizes, color-blind safe colors, reproducible files."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rgjax.config import METHODS
from rgjax.report.runs import Entry
from rgjax.report.text import escape_mathtext
from rgjax.storage.files import atomic_path

_COORDINATE = re.compile(r"(\.\d\d)\d+(?=[ \n])")  # a hundredth of a point is enough, in a third less space

# Colors of Okabe and Ito, and of Tol's qualitative schemes.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999933", "#777777")
_MORE_COLORS = ("#332288", "#117733", "#AA4499", "#44AA99", "#661100")
RG = "#882255"  # the maroon of the paper
MUTED = "#777777"
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "8")  # of markers
_DASHES = (
    "-",
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (6, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (2, 1)),
)  # variants of one method with regrouping

_CHARACTER, _LINE = 0.085, 0.17  # inches of a tick label
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


def panel_grid(count: int, *, width: float, height: float, most: int = 4) -> tuple[Figure, list[Axes], int]:
    """A figure, its `count` panels, and how many of them, at most `most`, a row has.

    The rows are about equally long. Width and height are of a panel, in inches.
    """
    rows = -(-count // most)
    columns = -(-count // rows)
    figure, panels = new_figure(rows, columns, width=width, height=height)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count], columns


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME.png and NAME.svg; the same figure gives the same bytes."""
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.set_dpi(160)
    with atomic_path(png) as temporary:  # `Figure.savefig` would draw twice
        FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    figure.set_layout_engine("none")  # the layout is done, and doing it again takes as long as drawing
    with atomic_path(svg) as temporary:
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
        temporary.write_text(_COORDINATE.sub(r"\1", text.getvalue()), encoding="utf-8")
    return png, svg


def line_styles(entries: Sequence[Entry]) -> dict[Entry, dict[str, Any]]:
    """Thick lines for regrouping, dashed for its variants; thin ones for baselines.

    Each has its own marker, as some share a color or differ by it alone.
    """
    styles, variants = {}, dict.fromkeys((entry.method for entry in entries), 0)
    for i, entry in enumerate(entries):
        dashes = _DASHES[variants[entry.method] % len(_DASHES)]
        variants[entry.method] += 1
        width, dashes = (1.7, dashes) if entry.regroups else (0.9, (0, (3, 1.2)))
        styles[entry] = {
            "color": method_color(entry),
            "linewidth": width,
            "linestyle": dashes,
            "marker": SHAPES[i % len(SHAPES)],
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


def legend_below(figure: Figure, columns: int) -> None:
    """One legend for all panels."""
    labeled = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            labeled.setdefault(name, handle)
    figure.legend(labeled.values(), labeled.keys(), loc="outside lower center", ncols=min(columns, len(labeled)))


def name_ticks(axes: Axes, names: Sequence[str], inches: float) -> None:
    """Names at 0, 1, ... on the x-axis, which is so long.

    Where they would touch they are slanted, and where these would, some are left out.
    """
    room = inches / len(names)
    slanted = max(map(len, names)) * _CHARACTER > room
    step = math.ceil(_LINE / room) if slanted else 1
    how = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(0, len(names), step), names[::step], **how)


def in_percent(axis: Axis, ticks: int = 6) -> None:
    """Show shares in percent, without the sign, which the axis label has."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}"))


def quarters(axes: Axes) -> None:
    """Ticks at the quarters of both axes, which show shares from 0 to 1."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
