"""Figures of the ablations: the paper's Fig. 8, and clustering algorithms."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from matplotlib.figure import Figure

from rgjax.config import ENCODERS
from rgjax.report.plots.style import RG, in_percent, legend_below, new_figure
from rgjax.report.runs import Entry, RunRecord
from rgjax.report.study import Score, Study, score_of
from rgjax.report.text import shorten

_PANELS = {"test_ba": "balanced accuracy (%), test", "test_macro_ap": "macro AP (%), test"}
_ENCODER_NAMES = {"clip": "CLIP", "bert": "BERT", "projection": "RP", "checkpoint": "finished run"}
_CLUSTERING_NAMES = {
    "kmeans": "K-means",
    "balanced": "balanced K-means",
    "spectral": "normalized cut",
    "random": "random",
    "given": "given",
}
_WITHOUT_FEATURES = ("random", "given")
_COLORS, _MARKERS = ("#0072B2", RG), ("o", "D")

Comparison: TypeAlias = Mapping[str, Mapping[str, list[Score | None]]]  # tick label -> series -> score in each panel


def grouping(study: Study) -> Figure | None:
    """Fig. 8 b: features and clusterings that form the groups, for one method."""

    def name(run: RunRecord) -> str:
        clustering = _CLUSTERING_NAMES.get(_clustering(run), _clustering(run))
        return clustering if _clustering(run) in _WITHOUT_FEATURES else f"{_encoder(run)} + {clustering}"

    return _draw(_compare_variants(study, name))


def clustering(study: Study) -> Figure | None:
    """Clustering algorithms on the same features; random and given groups need none."""
    features = next((_encoder(run) for run in _regrouped(study) if _clustering(run) == "kmeans"), None)

    def name(run: RunRecord) -> str | None:
        comparable = _clustering(run) in _WITHOUT_FEATURES or _encoder(run) == features
        return _CLUSTERING_NAMES.get(_clustering(run)) if comparable else None

    return _draw(_compare_variants(study, name))


def losses(study: Study) -> Figure | None:
    """Fig. 8 c: each loss with and without regrouping."""
    comparison = {}
    for entry in study.entries:
        baseline = Entry(entry.baseline)
        without, regrouped = study.finished(baseline), study.finished(entry)
        if entry.regroups and not entry.variant and without and regrouped:
            comparison[baseline.name] = {"without regrouping": _scores(without), "with regrouping": _scores(regrouped)}
    return _draw(comparison)


def aggregation(study: Study) -> Figure | None:
    """Fig. 8 d: class logits by "max" and by "sum" aggregation."""
    return _draw(
        {
            entry.name: {how: _scores(study.finished(entry), f"_{how}") for how in ("max", "sum")}
            for entry in study.entries
            if entry.regroups and study.finished(entry)
        }
    )


def _compare_variants(study: Study, name_of: Callable[[RunRecord], str | None]) -> Comparison:
    """The variants of the first method that has at least two names.

    The first variant of a name represents it.
    """
    for method in dict.fromkeys(run.entry.method for run in _regrouped(study)):
        comparison: dict[str, dict[str, list[Score | None]]] = {}
        for entry in (entry for entry in study.entries if entry.method == method):
            runs = study.finished(entry)
            name = name_of(runs[0]) if runs else None
            if name:
                comparison.setdefault(name, {Entry(method).name: _scores(runs)})
        if len(comparison) > 1:
            return comparison
    return {}


def _regrouped(study: Study) -> list[RunRecord]:
    return [run for entry in study.entries if entry.regroups for run in study.finished(entry)]


def _clustering(run: RunRecord) -> str:
    return str(run.config.get("regroup.clustering"))


def _encoder(run: RunRecord) -> str:
    name = str(run.config.get("encoder.name"))
    if name == "auto":
        name = ENCODERS["sentences" if run.config.get("model.name") == "bert" else "images"][0]
    return _ENCODER_NAMES.get(name, name)


def _scores(runs: Iterable[RunRecord], suffix: str = "") -> list[Score | None]:
    return [score_of(run.row[f"{column}{suffix}"] for run in runs) for column in _PANELS]


def _draw(comparison: Comparison) -> Figure | None:
    """Means as points and standard deviations as error bars.

    Columns would force the axes to start at zero.
    """
    if not comparison:
        return None
    series = list(dict.fromkeys(name for scores in comparison.values() for name in scores))
    height = 1.0 + (0.35 + 0.2 * len(series)) * len(comparison)
    figure, panels = new_figure(1, 2, width=3.6, height=height, sharey=True)
    for i, (axes, title) in enumerate(zip(panels, _PANELS.values(), strict=True)):
        for j, name in enumerate(series):
            shift = 0.42 * (j - (len(series) - 1) / 2)
            positions = {y + shift: by_series.get(name) for y, by_series in enumerate(comparison.values())}
            points = {y: score for y, scores in positions.items() if scores and (score := scores[i])}
            means, deviations = [s.mean for s in points.values()], [s.std or 0 for s in points.values()]
            color = RG if len(series) == 1 else _COLORS[j]
            axes.errorbar(means, list(points), xerr=deviations, fmt=_MARKERS[j], color=color, capsize=2.5, label=name)
            for y, score in points.items():
                axes.annotate(
                    str(score), (score.mean, y), (0, 3.5), textcoords="offset points", fontsize=7, ha="center"
                )
        axes.set(title=title, ylim=(len(comparison) - 0.4, -0.6))
        axes.margins(x=0.15)
        axes.set_yticks(range(len(comparison)), [shorten(name) for name in comparison])
        axes.grid(visible=False, axis="y")
        in_percent(axes.xaxis)
    if len(series) > 1:
        legend_below(figure, columns=2)
    return figure
