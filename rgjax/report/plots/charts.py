"""All figures of a study: which there are, their names and what they show."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from rgjax.report.plots import ablations, outcomes
from rgjax.report.plots.curves import hyper_parameters
from rgjax.report.plots.style import save, style
from rgjax.report.study import Study


@dataclass(frozen=True)
class Chart:
    """A figure that lies in `png` and `svg`, and what a reader has to know of it."""

    png: Path
    svg: Path
    caption: str
    inches: float  # width

    @property
    def wide(self) -> bool:
        return self.inches > 7.5


def draw_all(study: Study, folder: Path) -> list[Chart]:
    """Write every figure that the study has runs for; those of other studies stay as they are."""
    charts = []
    with style():
        for name, caption, draw in _figures(study):
            if figure := draw():
                png, svg = save(figure, folder, f"{file_name(study.name)}-{name}")
                charts.append(Chart(png, svg, caption, figure.get_figwidth()))
    return charts


def _figures(study: Study) -> Iterator[tuple[str, str, Callable[[], Figure | None]]]:
    """Name, caption and how it is drawn."""
    spread = "points and bars are means and standard deviations over seeds"
    yield (
        "precision-recall",
        "Precision against recall on the test set, first reported seed. Dotted: the share of the class.",
        partial(outcomes.precision_recall, study),
    )
    yield (
        "confusion",
        "Confusion on the test set, counts summed over seeds; shares and colors are of the row, the true class.",
        partial(outcomes.confusion, study),
    )
    yield (
        "training",
        "Training, means over the reported seeds. Losses of different methods do not compare.",
        partial(outcomes.training, study),
    )
    yield "losses", f"Each loss without and with regrouping: {spread}.", partial(ablations.losses, study)
    yield "grouping", f"What the groups are made from: {spread}.", partial(ablations.grouping, study)
    yield "clustering", f"Clustering algorithms: {spread}.", partial(ablations.clustering, study)
    yield "aggregation", f"Aggregation of the pseudo-classes' logits: {spread}.", partial(ablations.aggregation, study)
    for label in study.labels:
        yield (
            f"curves-{file_name(label.key)}",
            f"Grid search of {label.name} on the tuning seed.",
            partial(hyper_parameters, study, label),
        )


def file_name(text: str) -> str:
    """The text with nothing in it that a file system or a shell takes amiss."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("._") or "_"
