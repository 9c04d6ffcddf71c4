"""Figures of the ablations: the paper's Fig. 8, and the comparison of clustering algorithms."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from matplotlib.figure import Figure

from rgjax.report.plots.style import RG, in_percent, new_figure, short
from rgjax.report.runs import Label, Run
from rgjax.report.study import Score, Study, score_of

_PANELS = {"test_ba": "balanced accuracy (%), test", "test_macro_ap": "macro AP (%), test"}
_ENCODERS = {"clip": "CLIP", "bert": "BERT", "projection": "RP", "checkpoint": "own checkpoint"}
_CLUSTERINGS = {"kmeans": "K-means", "balanced": "balanced K-means", "spectral": "normalized cut", "random": "random"}
_COLORS, _MARKERS = ("#0072B2", RG), ("o", "D")

Rows: TypeAlias = Mapping[str, Mapping[str, list[Score | None]]]  # row -> series -> its score in each panel


def grouping(study: Study) -> Figure | None:
    """Fig. 8 b: what the groups are made from, in one method with regrouping."""
    return _draw(_of_one_method(study, _grouping))


def clustering(study: Study) -> Figure | None:
    """Clustering algorithms on the same features; random groups need none."""
    features = next((_encoder(run) for run in _regrouped(study) if _algorithm(run) == "kmeans"), None)

    def name(run: Run) -> str | None:
        shared = _algorithm(run) == "random" or _encoder(run) == features
        return _CLUSTERINGS.get(_algorithm(run)) if shared else None

    return _draw(_of_one_method(study, name))


def losses(study: Study) -> Figure | None:
    """Fig. 8 c: each loss with regrouping and without."""
    rows = {}
    for label in study.labels:
        without, with_it = study.finished(Label(label.partner)), study.finished(label)
        if label.regroups and not label.variant and without and with_it:
            name = Label(label.partner).name
            rows[name] = {"without regrouping": _scores(without), "with regrouping": _scores(with_it)}
    return _draw(rows) if rows else None


def aggregation(study: Study) -> Figure | None:
    """Fig. 8 d: class logits as the maximum of the pseudo-classes' or as the log of their summed probabilities."""
    labels = [label for label in study.labels if label.regroups and study.finished(label)]
    rows = {label.name: {how: _scores(study.finished(label), f"_{how}") for how in ("max", "sum")} for label in labels}
    return _draw(rows) if rows else None


def _of_one_method(study: Study, name_of: Callable[[Run], str | None]) -> Rows:
    """The first method that has two rows or more. Of several variants that would be one row, the first is it."""
    for method in dict.fromkeys(run.label.method for run in _regrouped(study)):
        rows: dict[str, dict[str, list[Score | None]]] = {}
        for label in (label for label in study.labels if label.method == method):
            runs = study.finished(label)
            name = name_of(runs[0]) if runs else None
            if name:
                rows.setdefault(name, {Label(method).name: _scores(runs)})
        if len(rows) > 1:
            return rows
    return {}


def _regrouped(study: Study) -> list[Run]:
    return [run for label in study.labels if label.regroups for run in study.finished(label)]


def _algorithm(run: Run) -> str:
    return str(run.config.get("regroup.clustering"))


def _encoder(run: Run) -> str:
    name = str(run.config.get("encoder.name"))
    if name == "auto":  # bert for text, which BERT alone classifies
        name = "bert" if run.config.get("model.name") == "bert" else "clip"
    return _ENCODERS.get(name, name)


def _grouping(run: Run) -> str:
    algorithm = _algorithm(run)
    name = _CLUSTERINGS.get(algorithm, algorithm)
    return name if algorithm == "random" else f"{_encoder(run)} + {name}"


def _scores(runs: Iterable[Run], suffix: str = "") -> list[Score | None]:
    return [score_of(run.row[f"{column}{suffix}"] for run in runs) for column in _PANELS]


def _draw(rows: Rows) -> Figure | None:
    """Means as points, standard deviations over seeds as bars: the axes begin where the scores do, so no columns."""
    if not rows:
        return None
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure, panels = new_figure(1, 2, width=3.6, height=1.0 + (0.35 + 0.2 * len(series)) * len(rows), sharey=True)
    for i, (axes, title) in enumerate(zip(panels, _PANELS.values(), strict=True)):
        for j, name in enumerate(series):
            shift = 0.42 * (j - (len(series) - 1) / 2)
            found = {y + shift: row[name][i] for y, row in enumerate(rows.values()) if name in row}
            known = {y: score for y, score in found.items() if score}
            means, spread = [s.mean for s in known.values()], [s.std or 0 for s in known.values()]
            color = RG if len(series) == 1 else _COLORS[j]
            axes.errorbar(means, list(known), xerr=spread, fmt=_MARKERS[j], color=color, capsize=2.5, label=name)
            for y, score in known.items():
                axes.annotate(
                    str(score), (score.mean, y), (0, 3.5), textcoords="offset points", fontsize=7, ha="center"
                )
        axes.set(title=title, ylim=(len(rows) - 0.4, -0.6))
        axes.margins(x=0.15)
        axes.set_yticks(range(len(rows)), [short(name) for name in rows])
        axes.grid(visible=False, axis="y")
        in_percent(axes.xaxis)
    if len(series) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure
