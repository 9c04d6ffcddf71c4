"""All figures of a study: file names, captions, and how each is drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from rgjax.report.plots import ablations, rankings, results
from rgjax.report.plots.calibration import reliability
from rgjax.report.plots.curves import hyper_parameters
from rgjax.report.plots.predictions import read_outcomes
from rgjax.report.plots.style import save, style
from rgjax.report.plots.thresholds import thresholds
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
    outcomes, unit = read_outcomes(study), study.unit
    legend = f"points and bars are means and standard deviations over {unit}"
    curves = (
        f"mean over {unit} at equal recall; gray: methods that the legend does not name. Points: where the argmax "
        "(hollow) and the tuned thresholds (filled) are; with more than two classes they may lie off the curve, as a "
        "decision weighs all classes."
    )
    yield (
        "thresholds",
        "Balanced accuracy of the argmax (circles) and at the thresholds that validation chose (diamonds), beside "
        f"macro AP, which has none: means over {unit}. A difference that tuning closes is one of the threshold.",
        partial(thresholds, study),
    )
    yield (
        "precision-recall",
        f"Precision against recall on the test set, {curves}",
        partial(rankings.precision_recall, study, outcomes),
    )
    yield (
        "roc",
        f"ROC: recall against the false positive rate on the test set, {curves}",
        partial(rankings.roc, study, outcomes),
    )
    yield (
        "reliability",
        "Accuracy on the test set against the confidence in the predicted class, in 15 bins of equal mass that pool "
        f"all {unit}; points below the diagonal are overconfident. Squares: at the temperature T and the biases that "
        f"validation chose. ECE: expected calibration error, mean over {unit}.",
        partial(reliability, outcomes),
    )
    yield (
        "confusion",
        f"Confusion matrices of the argmax on the test set, summed over {unit}. Colors and percentages: share of the "
        "true class; with at most eight classes, the examples below.",
        partial(results.confusion, study),
    )
    yield (
        "training",
        f"Training loss and validation BA, means over the reported {unit}. The losses of different methods are not "
        "comparable.",
        partial(results.training, study),
    )
    yield "losses", f"Each loss without and with regrouping: {legend}.", partial(ablations.losses, study)
    yield "grouping", f"Features and clusterings that form the groups: {legend}.", partial(ablations.grouping, study)
    yield "clustering", f"Clustering algorithms: {legend}.", partial(ablations.clustering, study)
    yield "aggregation", f"Aggregation of pseudo-class logits: {legend}.", partial(ablations.aggregation, study)
    for entry in study.entries:
        yield (
            f"curves-{file_name(entry.key)}",
            f"Grid search of {entry.name} {'inside each fold' if unit == 'folds' else 'on the tuning seed'}.",
            partial(hyper_parameters, study, entry),
        )
