"""All figures of a study: file names, captions, and how each is drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from rgjax.report.plots import ablations, outcomes
from rgjax.report.plots.curves import hyper_parameters
from rgjax.report.plots.style import save, style
from rgjax.report.study import Study
from rgjax.report.text import file_name


@dataclass(frozen=True)
class Chart:
    """The files of a figure and its caption; `inches` is its width."""

    png: Path
    svg: Path
    caption: str
    inches: float

    @property
    def wide(self) -> bool:
        return self.inches > 7.5


def draw_all(study: Study, folder: Path) -> list[Chart]:
    """Write every figure for which the study has runs."""
    charts = []
    with style():
        for name, caption, draw in _figures(study):
            if figure := draw():
                png, svg = save(figure, folder, f"{file_name(study.name)}-{name}")
                charts.append(Chart(png, svg, caption, figure.get_figwidth()))
    return charts


def _figures(study: Study) -> Iterator[tuple[str, str, Callable[[], Figure | None]]]:
    """Name, caption and drawing function of each figure."""
    legend = "points and bars are means and standard deviations over seeds"
    yield (
        "precision-recall",
        "Precision against recall on the test set, first reported seed. Dotted: the share of the class.",
        partial(outcomes.precision_recall, study),
    )
    yield (
        "confusion",
        "Confusion matrices on the test set, summed over seeds. Percentages and colors: share of the true class.",
        partial(outcomes.confusion, study),
    )
    yield (
        "training",
        "Training loss and validation BA, means over the reported seeds. The losses of different methods are not "
        "comparable.",
        partial(outcomes.training, study),
    )
    yield "losses", f"Each loss without and with regrouping: {legend}.", partial(ablations.losses, study)
    yield "grouping", f"Features and clusterings that form the groups: {legend}.", partial(ablations.grouping, study)
    yield "clustering", f"Clustering algorithms: {legend}.", partial(ablations.clustering, study)
    yield "aggregation", f"Aggregation of pseudo-class logits: {legend}.", partial(ablations.aggregation, study)
    for entry in study.entries:
        yield (
            f"curves-{file_name(entry.key)}",
            f"Grid search of {entry.name} on the tuning seed.",
            partial(hyper_parameters, study, entry),
        )
