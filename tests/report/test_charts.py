"""Which figures are drawn, and the numbers behind their lines."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, precision_score, recall_score, roc_curve

from rgjax.config import METHODS, Method
from rgjax.decision import read_decision
from rgjax.report.plots import ablations, rankings, results
from rgjax.report.plots.calibration import reliability, reliability_bins
from rgjax.report.plots.charts import draw_all
from rgjax.report.plots.curves import hyper_parameters
from rgjax.report.plots.predictions import read_outcomes, threshold_curve
from rgjax.report.plots.style import PALETTE, RG, line_styles, method_color
from rgjax.report.plots.thresholds import thresholds
from rgjax.report.reading import read_runs
from rgjax.report.runs import Entry
from rgjax.report.study import make_studies
from tests.support.sweeps import ODD

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("finished sweep")]


@pytest.fixture(scope="module")
def studies(finished_sweep):
    return {study.name: study for study in make_studies(read_runs(finished_sweep), {})}


def test_each_study_has_the_figures_that_its_runs_allow(finished_sweep):
    names = {path.name for path in (finished_sweep / "figures").iterdir()}
    both = ("thresholds", "precision-recall", "roc", "reliability", "confusion", "training", "losses", "aggregation")
    expected = {f"{study}-{name}" for study in ("digits", "triple") for name in both}
    expected |= {f"digits-{name}" for name in ("grouping", "clustering", "curves-focal", "curves-ldam")}
    assert names == {f"{name}{suffix}" for name in expected for suffix in (".png", ".svg")}


def test_curves_equal_scikit_learns():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=150).round(1), rng.random(150) < 0.3  # with ties
    recall, precision, false_positives = threshold_curve(scores, positive)
    expected = {(r, p) for p, r, _ in zip(*precision_recall_curve(positive, scores), strict=False)}
    assert {*zip(recall, precision, strict=True)} <= expected
    expected = {(r, f) for f, r, _ in zip(*roc_curve(positive, scores, drop_intermediate=False), strict=True)}
    assert {*zip(recall, false_positives, strict=True)} <= expected
    assert recall[-1] == 1
    many, _, _ = threshold_curve(rng.normal(size=5000), np.arange(5000) < 3000)
    np.testing.assert_allclose(many, np.linspace(0.01, 1, 100))


def test_points_are_where_the_labels_of_the_decision_are(studies):
    study = studies["triple"]
    (run, *_), (outcome, *_) = study.finished(Entry("ce")), read_outcomes(study)[Entry("ce")]
    with np.load(run.folder / "predictions.npz") as file:
        logits, labels = file["test_logits"], file["test_labels"]
    chosen = {"argmax": logits.argmax(axis=1), "tuned": read_decision(run.folder, "max").predict(logits)}
    for choice, predicted in chosen.items():
        recalls, precisions, _ = np.array(list(getattr(outcome, choice).values())).T
        np.testing.assert_allclose(recalls, recall_score(labels, predicted, average=None))
        np.testing.assert_allclose(precisions, precision_score(labels, predicted, average=None))
    figure = rankings.precision_recall(study, {Entry("ce"): [outcome]})
    assert figure is not None
    markers = [line.get_xydata()[0] for line in figure.axes[1].lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(markers, [getattr(outcome, choice)[ODD][:2] for choice in chosen])


def test_of_two_classes_the_points_lie_on_their_curves(studies):
    for outcome in read_outcomes(studies["digits"])[Entry("wce")]:
        for name, curve in outcome.curves.items():
            for point in (outcome.argmax[name], outcome.tuned[name]):
                above, below = curve[2, curve[0] > point[0]], curve[2, curve[0] <= point[0]]
                assert below.max(initial=0) <= point[2] <= above.min(initial=1)


def test_reliability_bins_have_equal_mass_and_the_ece_of_the_result(studies):
    confidences, correct = np.linspace(0.5, 1, 300), np.arange(300) % 3 > 0
    bins = reliability_bins(confidences, correct)
    np.testing.assert_allclose(bins[:, 0], confidences.reshape(15, 20).mean(axis=1))
    np.testing.assert_allclose(bins[:, 1], correct.reshape(15, 20).mean(axis=1))
    assert len(reliability_bins(np.full(9, 0.7), np.ones(9, bool))) == 1  # equal confidences cannot be told apart
    study = studies["digits"]
    figure = reliability(read_outcomes(study))
    assert figure is not None
    for entry, axes in zip(study.entries, figure.axes, strict=True):
        rows = [run.row for run in study.finished(entry)]
        errors = [np.mean([row[name] for row in rows]) for name in ("test_ece", "test_tuned_ece")]
        legend = axes.get_legend()
        assert [text.get_text().partition("ECE ")[2] for text in legend.get_texts()] == [
            f"{100 * x:.1f} %" for x in errors
        ]


def test_ba_is_shown_at_argmax_and_tuned(studies):
    study = studies["digits"]
    figure = thresholds(study)
    assert figure is not None
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"CE", "RG, max", "RG, sum", "RG (random groups), sum"} < set(names)
    row = names.index("RG, sum")
    runs = study.finished(Entry("rg"))
    for label, column in (("argmax", "test_ba_sum"), ("tuned", "test_tuned_ba_sum")):
        shown = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_label() == label]
        assert shown[row] == pytest.approx(np.mean([run.row[column] for run in runs]))


def test_runs_of_older_versions_show_the_argmax_alone(sweep_of):
    sweep = sweep_of(decides=False)
    sweep.run("a", "ce")
    (study,) = make_studies(read_runs(sweep.folder), {})
    outcomes = read_outcomes(study)
    (outcome,) = outcomes[Entry("ce")]
    assert (outcome.tuned, outcome.calibrated) == ({}, None)
    curves, diagram = rankings.roc(study, outcomes), reliability(outcomes)
    assert curves is not None and diagram is not None
    assert "tuned" not in {line.get_label() for axes in curves.axes for line in axes.lines}
    assert len(diagram.axes[0].lines) == 2  # with the diagonal
    assert thresholds(study) is None


def test_a_damaged_decision_is_skipped_with_a_warning(sweep_of, capsys):
    sweep = sweep_of()
    for name, text in (
        ("a", '{"by'),
        (
            "b",
            '{"rule": "costs", "by_aggregation": {"max": {"offsets": {"x": 0}, "temperature": 1, "biases": {"x": 0}}}}',
        ),
    ):
        (sweep.run(name, "ce", seed=ord(name)) / "decision.json").write_text(text)
    (study,) = make_studies(read_runs(sweep.folder), {})
    assert [outcome.tuned for outcome in read_outcomes(study)[Entry("ce")]] == [{}, {}]
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["rgjax", "rgjax"]


def test_no_more_than_six_entries_are_colored_and_none_is_missing(sweep_of):
    sweep = sweep_of()
    for i, method in enumerate(METHODS):
        sweep.run(method, method, skill=1 + i / 20)
    (study,) = make_studies(read_runs(sweep.folder), {})
    figure = rankings.roc(study, read_outcomes(study))
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    labels = [line.get_label() for line in lines]
    assert {"CE", "RG"} < set(labels) and len(set(labels)) == 7
    assert labels.count("other methods") == len(METHODS) - 6


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
    figure = rankings.precision_recall(study, read_outcomes(study))
    assert figure is not None
    labels = {str(line.get_label()) for line in figure.axes[0].lines}
    assert {label for label in labels if label[0] != "_"} == {"WCE", "chance", "argmax", "tuned"}
    trained = results.training(study)
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
