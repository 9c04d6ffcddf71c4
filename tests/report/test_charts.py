"""Figures: which are drawn, and the numbers behind their lines."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve as reference

from rgjax.report.plots import ablations, outcomes
from rgjax.report.plots.charts import draw_all, file_name
from rgjax.report.plots.curves import hyper_parameters
from rgjax.report.plots.outcomes import precision_recall_curve
from rgjax.report.reading import read_runs
from rgjax.report.runs import Label
from rgjax.report.study import studies


@pytest.fixture(scope="module")
def found(finished_sweep):
    return {study.name: study for study in studies(read_runs(finished_sweep, print), {})}


def test_each_study_has_the_figures_that_its_runs_allow(finished_sweep):
    names = {path.name for path in (finished_sweep / "figures").iterdir()}
    both = ("precision-recall", "confusion", "training", "losses", "aggregation")
    expected = {f"{study}-{name}" for study in ("digits", "triple") for name in both}
    expected |= {f"digits-{name}" for name in ("grouping", "clustering", "curves-focal", "curves-ldam")}
    assert names == {f"{name}{suffix}" for name in expected for suffix in (".png", ".svg")}


def test_precision_and_recall_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=150).round(1), rng.random(150) < 0.3  # with ties
    recall, precision = precision_recall_curve(scores, positive)
    expected = {(r, p) for p, r, _ in zip(*reference(positive, scores), strict=False)}
    assert {(r, p) for r, p in zip(recall, precision, strict=True)} <= expected
    assert recall[-1] == 1
    many = precision_recall_curve(rng.normal(size=5000), np.arange(5000) < 3000)
    assert len(many[0]) <= 200
    assert many[0][-1] == 1


def test_a_curve_has_the_scores_of_the_grid(found):
    study = found["digits"]
    figure = hyper_parameters(study, Label("focal"))
    assert figure is not None
    (axes,) = figure.axes
    lines = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    runs = sorted(study.finished(Label("focal"), 1), key=lambda run: run.config["loss.gamma"])
    np.testing.assert_array_equal(lines["validation"], [run.row["val_ba"] for run in runs])
    np.testing.assert_array_equal(lines["test"], [run.row["test_ba"] for run in runs])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1.5", "3.0"]
    grid = hyper_parameters(study, Label("ldam"))
    assert grid is not None
    assert [len(axes.containers) for axes in grid.axes] == [4, 4]
    assert hyper_parameters(study, Label("ce")) is None


def test_ablations_show_means_over_seeds(found):
    study = found["digits"]
    grouping = ablations.grouping(study)
    assert grouping is not None
    names = [text.get_text() for text in grouping.axes[0].get_yticklabels()]
    assert sorted(names) == ["CLIP + K-means", "RP + K-means", "random"]
    mean = np.mean([run.row["test_ba"] for run in study.finished(Label("rg"))])
    shown = grouping.axes[0].containers[0].lines[0].get_xdata()
    assert shown[names.index("CLIP + K-means")] == pytest.approx(mean)
    losses = ablations.losses(study)
    assert losses is not None
    assert [text.get_text() for text in losses.axes[0].get_yticklabels()] == ["CE", "WCE"]
    assert ablations.grouping(found["triple"]) is None


def test_runs_without_predictions_or_history_are_left_out(sweep_of):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    (folder / "predictions.npz").unlink()
    (folder / "metrics.jsonl").unlink()
    with open(sweep.run("b", "wce") / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "epo')
    (study,) = studies(read_runs(sweep.folder, print), {})
    warnings = []
    figure = outcomes.precision_recall(study, warnings.append)
    assert figure is not None
    assert {line.get_label() for line in figure.axes[0].lines} == {"WCE", "chance"}
    trained = outcomes.training(study, warnings.append)
    assert trained is not None
    assert [line.get_xdata().tolist() for line in trained.axes[0].lines] == [[1, 2, 3]]
    assert len(warnings) == 1 and "line 4 is damaged" in warnings[0]


def test_names_of_files_are_tame(sweep_of, tmp_path):
    assert file_name("rg random groups") == "rg_random_groups"
    assert file_name("../a$b/ü") == "a_b"
    sweep = sweep_of(study="a $b$", classes=("x $", "$ y _"))
    sweep.run("a", "ce")
    (study,) = studies(read_runs(sweep.folder, print), {})
    charts = draw_all(study, tmp_path / "figures", print)
    assert {chart.png.parent for chart in charts} == {tmp_path / "figures"}
