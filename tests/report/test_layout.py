"""No text of a figure overlaps another or is cut, with few classes and with many."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from rgjax.config import METHODS
from rgjax.regroup import Regrouping
from rgjax.report import pictures
from rgjax.report.plots import charts
from rgjax.report.plots.style import style
from rgjax.report.reading import read_runs
from rgjax.report.study import make_studies

pytestmark = pytest.mark.long


def mistakes(figure: Figure) -> list[str]:
    """Texts that overlap or leave the figure."""
    figure.draw_without_rendering()
    ignored = {id(text) for axes in figure.axes for text in axes.texts}  # numbers in cells and at points
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ignored |= {
            id(tick.label1) for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high
        }  # not drawn
    texts = [
        text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and id(text) not in ignored
    ]
    boxes = np.array([text.get_window_extent().extents for text in texts])
    low, high = boxes[:, :2] + 1, boxes[:, 2:] - 1
    cut = (low < 0).any(axis=1) | (high > figure.bbox.extents[2:]).any(axis=1)
    bad = [f"{text.get_text()!r} is cut" for text, is_cut in zip(texts, cut, strict=True) if is_cut]
    level = [i for i, text in enumerate(texts) if text.get_rotation() % 90 == 0]
    touching = ((low[:, None] < high) & (low < high[:, None])).all(axis=2)
    pairs = [(texts[i].get_text(), texts[j].get_text()) for i in level for j in level if i < j and touching[i, j]]
    bad += [f"{first!r} and {second!r} overlap" for first, second in pairs]
    for axes in figure.axes:
        slanted = [t for t in axes.get_xticklabels() if t.get_text() and t.get_rotation() % 90 and t.get_visible()]
        for first, second in pairwise(slanted):
            distance = axes.transData.transform([(second.get_position()[0], 0), (first.get_position()[0], 0)])
            if abs(distance[0, 0] - distance[1, 0]) * np.sin(np.pi / 4) < first.get_fontsize() * figure.dpi / 72:
                bad.append(f"{first.get_text()!r} and {second.get_text()!r} overlap")
    return bad


@pytest.mark.parametrize(("classes", "methods"), [(2, METHODS), (17, ["ce", "rg"]), (60, ["ce"])])
def test_texts_of_figures_have_their_room(classes, methods, sweep_of):
    names = tuple(f"{i}, a class with a long name" for i in range(classes))
    sweep = sweep_of(classes=names, groups=(2,) * classes, sizes=(*[7] * (classes - 1), 4))
    for method in methods:
        sweep.run(method, method)
    for i, value in enumerate((0.5, 0.0001, 12345.678, 3.0, 4.0, 5.0)):
        grid = {"loss.gamma": value, "train.weight_decay": 0.1 * (i % 3)}
        sweep.run(f"grid-{i}", "ce", stage=1, seed=1000, overrides=grid)
    (study,) = make_studies(read_runs(sweep.folder), {})
    with style():
        drawn = {name: figure for name, _, draw in charts._figures(study) if (figure := draw())}
        assert {"thresholds", "roc", "reliability", "confusion", "curves-ce"} < drawn.keys()
        assert {name: bad for name, figure in drawn.items() if (bad := mistakes(figure))} == {}


@pytest.mark.parametrize("classes", [2, 17, 100])
def test_names_below_the_sizes_of_groups_have_their_room(classes, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    parent = np.concatenate([[0] * 30, range(1, classes)]).astype(np.int32)
    regrouping = Regrouping(np.arange(len(parent), dtype=np.int32), parent)
    pictures._draw_sizes(tmp_path / "sizes.png", regrouping, tuple(f"a long class name, {i}" for i in range(classes)))
    (figure,) = figures
    assert mistakes(figure) == []
