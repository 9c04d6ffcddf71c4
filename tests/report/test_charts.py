"""Which figures are drawn, and the numbers behind their lines."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve as reference

from rgjax.config import METHODS, Method
from rgjax.report.plots import ablations, outcomes
from rgjax.report.plots.charts import draw_all
from rgjax.report.plots.curves import hyper_parameters
from rgjax.report.plots.outcomes import precision_recall_curve
from rgjax.report.plots.style import PALETTE, RG, line_styles, method_color
from rgjax.report.reading import read_runs
from rgjax.report.runs import Entry
from rgjax.report.study import make_studies

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("finished sweep")]


@pytest.fixture(scope="module")
def studies(finished_sweep):
    return {study.name: study for study in make_studies(read_runs(finished_sweep), {})}


def test_each_study_has_the_figures_that_its_runs_allow(finished_sweep):
    names = {path.name for path in (finished_sweep / "figures").iterdir()}
    both = ("precision-recall", "confusion", "training", "losses", "aggregation")
    expected = {f"{study}-{name}" for study in ("digits", "triple") for name in both}
    expected |= {f"digits-{name}" for name in ("grouping", "clustering", "curves-focal", "curves-ldam")}
    assert names == {f"{name}{suffix}" for name in expected for suffix in (".png", ".svg")}


def test_precision_and_recall_equal_scikit_learns():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=150).round(1), rng.random(150) < 0.3  # with ties
    recall, precision = precision_recall_curve(scores, positive)
    expected = {(r, p) for p, r, _ in zip(*reference(positive, scores), strict=False)}
    assert {(r, p) for r, p in zip(recall, precision, strict=True)} <= expected
    assert recall[-1] == 1
    many = precision_recall_curve(rng.normal(size=5000), np.arange(5000) < 3000)
    assert len(many[0]) <= 200
    assert many[0][-1] == 1


def test_curves_show_the_scores_of_the_grid(studies):
    study = studies["digits"]
    figure = hyper_parameters(study, Entry("focal"))
    assert figure is not None
    (axes,) = figure.axes
    lines = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    runs = sorted(study.finished(Entry("focal"), 1), key=lambda run: run.config["loss.gamma"])
    np.testing.assert_array_equal(lines["validation"], [run.row["val_ba"] for run in runs])
    np.testing.assert_array_equal(lines["test"], [run.row["test_ba"] for run in runs])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1.5", "3.0"]
    grid = hyper_parameters(study, Entry("ldam"))
    assert grid is not None
    assert [len(axes.containers) for axes in grid.axes] == [4, 4]
    assert hyper_parameters(study, Entry("ce")) is None


def test_ablations_show_means_over_seeds(studies):
    study = studies["digits"]
    grouping = ablations.grouping(study)
    assert grouping is not None
    names = [text.get_text() for text in grouping.axes[0].get_yticklabels()]
    assert sorted(names) == ["CLIP + K-means", "RP + K-means", "random"]
    mean = np.mean([run.row["test_ba"] for run in study.finished(Entry("rg"))])
    shown = grouping.axes[0].containers[0].lines[0].get_xdata()
    assert shown[names.index("CLIP + K-means")] == pytest.approx(mean)
    losses = ablations.losses(study)
    assert losses is not None
    assert [text.get_text() for text in losses.axes[0].get_yticklabels()] == ["CE", "WCE"]
    assert ablations.grouping(studies["triple"]) is None


def test_a_new_method_gets_name_order_and_color_from_methods(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Method("Toy", {"loss.name": "toy"}))
    monkeypatch.setitem(METHODS, "rg_toy", Method("RG+Toy", {"regroup.clustering": "kmeans", "loss.name": "toy"}))
    toy, regrouped, known = Entry("toy"), Entry("rg_toy"), [Entry(name) for name in METHODS if "toy" not in name]
    assert (toy.name, regrouped.name, regrouped.baseline) == ("Toy", "RG+Toy", "toy")
    order = sorted([*known, toy, regrouped], key=lambda entry: entry.order)
    assert [entry.method for entry in order] == sorted(METHODS, key=lambda name: METHODS[name].regroups)
    assert method_color(toy) == method_color(regrouped)
    assert method_color(toy) not in {method_color(entry) for entry in known}
    assert line_styles([toy, regrouped])[regrouped]["label"] == "RG+Toy"


def test_names_and_colors_of_the_papers_methods():
    names = "CE WCE Focal LDAM LA ROS RUS RUSC DSMT RG RG+WCE RG+Focal RG+LDAM RG+LA"
    entries = sorted(map(Entry, METHODS), key=lambda entry: entry.order)
    assert " ".join(entry.name for entry in entries) == names
    assert [entry.baseline for entry in entries[9:]] == ["ce", "wce", "focal", "ldam", "la"]
    assert [method_color(entry) for entry in entries] == [*PALETTE, RG, *PALETTE[1:5]]
    assert Entry("unheard_of").name == "unheard_of"


def test_runs_without_predictions_or_history_are_skipped(sweep_of, capsys):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    (folder / "predictions.npz").unlink()
    (folder / "metrics.jsonl").unlink()
    with open(sweep.run("b", "wce") / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "epo')
    (study,) = make_studies(read_runs(sweep.folder), {})
    figure = outcomes.precision_recall(study)
    assert figure is not None
    assert {line.get_label() for line in figure.axes[0].lines} == {"WCE", "chance"}
    trained = outcomes.training(study)
    assert trained is not None
    assert [line.get_xdata().tolist() for line in trained.axes[0].lines] == [[1, 2, 3]]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "line 4 is corrupted" in warning


def test_figures_of_a_study_with_any_name_stay_in_their_folder(sweep_of, tmp_path):
    sweep = sweep_of(study="a $b$", classes=("x $", "$ y _"))
    sweep.run("a", "ce")
    (study,) = make_studies(read_runs(sweep.folder), {})
    charts = draw_all(study, tmp_path / "figures")
    assert {chart.png.parent for chart in charts} == {tmp_path / "figures"}
