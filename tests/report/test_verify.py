"""Verification of hand-made runs with figures computed by hand, of real runs, and of runs by version 0.1.0."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from rgjax import artifacts, experiment
from rgjax.decision import Goal
from rgjax.metrics import ba_interval, confidence_intervals
from rgjax.report import __main__
from rgjax.report.reading import flatten
from rgjax.report.verify import verify_run
from rgjax.storage import manifest
from rgjax.storage.files import write_json, write_npz
from rgjax.training.trainer import Outcome, Trial
from tests.support.finished import config_of

# By descending log-odds of class b the labels are b a b a a; the first two are predicted as b.
LABELS = np.array([1, 0, 1, 0, 0])
ODDS = np.array([3.0, 1.0, -1.0, -2.0, -3.0], np.float32)
FIGURES = {
    "ba": 7 / 12,
    "ap": {"a": 11 / 12, "b": 5 / 6},
    "macro_ap": 7 / 8,
    "accuracy": 3 / 5,
    "macro_auroc": 5 / 6,
    "n": 5,
    "counts": {"a": 3, "b": 2},
    "chance_ap": {"a": 0.6, "b": 0.4},
    "confusion": [[2, 1], [1, 1]],
}
SIGMOID = 1 / (1 + np.exp(-np.abs(ODDS.astype(float))))  # confidences; the second and the third example are wrong
FIGURES |= {
    "precision": {"a": 2 / 3, "b": 1 / 2},
    "recall": {"a": 2 / 3, "b": 1 / 2},
    "f1": {"a": 2 / 3, "b": 1 / 2},
    "macro_f1": 7 / 12,
    "mcc": 1 / 6,
    "ece": (2 * (1 - SIGMOID[0]) + 2 * SIGMOID[1] + 1 - SIGMOID[3]) / 5,
    "brier": (2 * (1 - SIGMOID[0]) ** 2 + 2 * SIGMOID[1] ** 2 + (1 - SIGMOID[3]) ** 2) / 5,
    "nll": -(2 * np.log(SIGMOID[0]) + 2 * np.log(1 - SIGMOID[1]) + np.log(SIGMOID[3])) / 5,
}
# The first example alone is now predicted as b, and the temperature leaves the probabilities nearly equal.
DECISION = {"offsets": {"a": 0.0, "b": -2.0}, "temperature": 1e9, "biases": {"a": 0.0, "b": 0.0}}
TUNED = {
    "ba": 3 / 4,
    "accuracy": 4 / 5,
    "precision": {"a": 3 / 4, "b": 1.0},
    "recall": {"a": 1.0, "b": 1 / 2},
    "f1": {"a": 6 / 7, "b": 2 / 3},
    "macro_f1": 16 / 21,
    "mcc": 3 / np.sqrt(24),
    "ece": 1 / 2,
    "brier": 1 / 4,
    "nll": np.log(2),
    "n": 5,
    "confusion": [[3, 0], [1, 1]],
}
PREDICTIONS = {"parent": np.array([0, 0, 1]), "class_names": np.array(["a", "b"])} | {
    f"{split}_{name}": values
    for split in ("val", "test")
    for name, values in {
        # The second pseudo-class of a is so unlikely that the sum equals the maximum.
        "logits": np.stack([0 * ODDS, 0 * ODDS - 60, ODDS], axis=1),
        "labels": LABELS,
        "ids": np.array(list("vwxyz")),
    }.items()
}


INTERVALS = confidence_intervals(np.stack([0 * ODDS, ODDS], axis=1), LABELS)


def recall_intervals(sizes, correct):
    bounds = (binomtest(k, n).proportion_ci(method="wilson") for k, n in zip(correct, sizes, strict=True))
    return dict(zip("ab", map(list, bounds), strict=True))


def result():
    ap = dict(zip("ab", INTERVALS["ap"].tolist(), strict=True))
    figures = FIGURES | {f"{name}_ci": INTERVALS[name].tolist() for name in ("ba", "macro_ap")} | {"ap_ci": ap}
    figures |= {"recall_ci": recall_intervals((3, 2), (2, 1))}
    tuned = TUNED | {"ba_ci": ba_interval(np.array([3, 1]), np.array([3, 2])).tolist()}
    tuned |= {"recall_ci": recall_intervals((3, 2), (3, 1))}
    scores = {"val": figures, "test": figures, "val_tuned": tuned, "test_tuned": tuned}
    return {
        "dataset": "by hand", "method": "rg", "seed": 3, "num_classes": 2, "num_pseudo_classes": 3, "aggregate": "max",
        "train_counts": {"a": 4, "b": 2}, **scores, "timing": {"total_s": 1.5},
    } | {f"{name}_by_aggregation": {"max": values, "sum": values} for name, values in scores.items()}  # fmt: skip


def result_of_version_0_3_0():
    """Without decisions, and without what came with them."""
    new = {"precision", "recall", "recall_ci", "f1", "macro_f1", "mcc", "ece", "brier", "nll"}
    figures = {name: value for name, value in result()["test"].items() if name not in new}
    scores = {"val": figures, "test": figures, "test_by_aggregation": {"max": figures, "sum": figures}}
    return {name: value for name, value in result().items() if "val" not in name and "test" not in name} | scores


def write_run(folder, result, **changes):
    write_json(folder / "config.json", {"method": "rg", "seed": 3, "regroup": {"aggregate": "max"}})
    write_npz(folder / "predictions.npz", **(PREDICTIONS | changes))
    write_npz(folder / "regrouping.npz", parent=PREDICTIONS["parent"], pseudo_labels=np.array([0, 0, 1, 0, 2, 2]))
    if "test_tuned" in result:
        by_aggregation = {"max": DECISION, "sum": DECISION}
        write_json(folder / "decision.json", {"rule": "balanced accuracy", "by_aggregation": by_aggregation})
    write_json(folder / "result.json", result)
    return with_manifest(folder)


def with_manifest(folder):
    manifest.write(folder, ["config.json", "predictions.npz", "regrouping.npz", "decision.json", "result.json"])
    return folder


def set_in(tree, name, value):
    *groups, leaf = name.split(".")
    for group in groups:
        tree = tree[group]
    tree[leaf] = value


def command(*arguments, capsys):
    """The exit code and the lines of the command."""
    code = __main__.main([*map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


def changed(result, name, value):
    """A copy of the result with another value at the dotted name."""
    result = tree = json.loads(json.dumps(result))
    *sections, leaf = name.split(".")
    for section in sections:
        tree = tree[section]
    tree[leaf] = value
    return result


def test_correct_runs_at_any_depth_are_verified(tmp_path, capsys):
    write_run(tmp_path / "study" / "one", result())
    write_run(tmp_path / "two", result())
    write_json(tmp_path / "begun" / "config.json", {})
    code, lines = command("--verify", tmp_path, capsys=capsys)
    assert code == 0
    assert lines == ["OK          study/one", "OK          two", "2 finished runs: 2 OK"]


def test_every_figure_that_differs_by_2e_6_is_reported(tmp_path):
    tampered = result()
    figures = {n: v for n, v in flatten(tampered).items() if n != "dataset" and not n.startswith("timing.")}
    assert len(figures) > 200
    for name, value in figures.items():
        moved = value + "x" if isinstance(value, str) else (np.array(value) + 2e-6).tolist()
        if isinstance(value, list):
            moved = [moved[0], *value[1:]] if name.endswith(("ci", "ci.a", "ci.b")) else [[1, 2], [1, 1]]
        tampered = changed(tampered, name, moved)
    folder = write_run(tmp_path, tampered)
    differences = verify_run(folder).differences
    assert {difference.partition("=")[0] for difference in differences} == figures.keys()
    assert all(": recomputed as " in difference for difference in differences)


def test_runs_of_versions_without_decisions_are_verified(tmp_path):
    folder = write_run(tmp_path, result_of_version_0_3_0())
    assert verify_run(folder).state == "OK"
    folder = write_run(tmp_path, changed(result_of_version_0_3_0(), "val.macro_ap", 0.5))
    assert len(verify_run(folder).differences) == 1


def test_sums_of_version_0_1_0_may_differ_by_what_float32_changed(tmp_path):
    outcomes = {}
    for version in ("0.1.0", "0.2.0"):
        for how in ("max", "sum"):
            name = f"test_by_aggregation.{how}.ap.b"
            folder = write_run(tmp_path / version / how, changed(result(), name, FIGURES["ap"]["b"] + 2e-5))
            write_json(folder / "provenance.json", {"packages": {"rgjax": version}})
            outcomes[version, how] = verify_run(folder).state
    assert [key for key, state in outcomes.items() if state == "OK"] == [("0.1.0", "sum")]


@pytest.mark.parametrize("name", ["val.ba_ci", "test.ap_ci.b", "test_by_aggregation.sum.macro_ap_ci"])
def test_bootstrap_intervals_of_older_versions_are_not_recomputed(name, tmp_path, capsys):
    for version in ("0.1.0", "0.2.0", "0.3.0"):
        folder = write_run(tmp_path / version, changed(result(), name, [0.1, 0.9]))
        write_json(folder / "provenance.json", {"packages": {"rgjax": version}})
    code, (first, second, third, _) = command("--verify", tmp_path, capsys=capsys)
    assert code == 1
    for line, version in ((first, "0.1.0"), (second, "0.2.0")):
        assert line == f"OK          {version}: bootstrap intervals of version {version} are not recomputed"
    assert third.startswith(f"DIFFERS     0.3.0: {name}=[0.1, 0.9]: recomputed as ")


def test_scores_of_older_versions_are_recomputed(tmp_path):
    folder = write_run(tmp_path, changed(result(), "test.ap.b", 0.8))
    write_json(folder / "provenance.json", {"packages": {"rgjax": "0.2.0"}})
    assert [difference.partition("=")[0] for difference in verify_run(folder).differences] == ["test.ap.b"]


def test_values_of_another_type_are_reported(tmp_path):
    folder = write_run(tmp_path, result())
    for value in (None, "0.5", [0.5, 0.5], {"a": 0.5}, True, float("inf")):
        (folder / "result.json").write_text(json.dumps(changed(result(), "test.ba", value)))
        assert any("test.ba" in difference for difference in verify_run(with_manifest(folder)).differences)


def test_missing_figures_and_unknown_classes_are_reported(tmp_path):
    tampered = changed(result(), "test.ap.c", 0.9)
    del tampered["val"]["macro_ap"]
    differences = verify_run(write_run(tmp_path, tampered)).differences
    assert differences == ["test.ap.c: no such class", "val.macro_ap: missing"]


def test_changed_predictions_are_reported_whatever_the_checksums(tmp_path, capsys):
    swapped, moved = LABELS.copy(), PREDICTIONS["val_logits"].copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    moved[0, 2] = -9
    write_run(tmp_path / "swapped", result(), test_labels=swapped)
    write_run(tmp_path / "moved", result(), val_logits=moved)
    code, (first, second, last) = command("--verify", tmp_path, capsys=capsys)
    assert code == 1 and last == "2 finished runs: 2 DIFFERS"
    assert first.startswith("DIFFERS     moved: val.ba=0.583333333: recomputed as 0.333333333; ")
    assert second.startswith("DIFFERS     swapped: test.ba=0.583333333: recomputed as 1; ") and second.endswith(" more")


def test_a_flipped_bit_in_any_file_is_reported(tmp_path):
    for name in ("config.json", "predictions.npz", "regrouping.npz", "decision.json", "result.json"):
        folder = write_run(tmp_path / name, result())
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)
        assert any(difference.startswith(f"'{name}': ") for difference in verify_run(folder).differences)


def test_a_run_without_a_manifest_is_unverified(tmp_path, capsys):
    (write_run(tmp_path / "run", result()) / "manifest.json").unlink()
    code, lines = command("--verify", tmp_path, capsys=capsys)
    assert (code, lines) == (1, ["unverified  run: no manifest", "1 finished run: 1 unverified"])


def test_missing_and_malformed_files_are_reported_in_one_line(tmp_path, capsys):
    for name in ("predictions.npz", "regrouping.npz", "decision.json", "result.json", "config.json"):
        for content in (None, b"", b"PK\3\4", b"[]", b"{}"):
            folder = write_run(tmp_path, result())
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_bytes(content)
                with_manifest(folder)
            code, (line, _) = command("--verify", tmp_path, capsys=capsys)
            assert code == 1 and line.startswith("DIFFERS     .: ")


def test_nothing_to_verify_is_a_users_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--verify", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        __main__.cli()
    assert ended.value.code == 2
    assert f"{tmp_path}: no finished run below it" in capsys.readouterr().err


TEN = {"seed": 5, "data.positive": "", "regroup.threshold": 50}  # all ten digits, in about three groups each


@pytest.fixture(scope="module")
def task():
    return experiment.prepare(config_of("rg", **TEN))


@pytest.mark.parametrize(
    ("shape", "how"),
    [("trained", "max"), ("trained", "sum"), ("near ties", "sum"), ("constant", "max"), ("saturated", "max")],
)
def test_results_written_by_a_run_are_verified(shape, how, task, tmp_path):
    trial = Trial(config_of("rg", **TEN, **{"regroup.aggregate": how}), tmp_path)
    rng, logits = np.random.default_rng(0), {}
    for split in ("val", "test"):
        noise = rng.normal(size=(len(getattr(task.dataset, split)), task.regrouping.num_pseudo_classes))
        scale = {"trained": 5, "near ties": 1e-6, "constant": 0, "saturated": 200}[shape]
        logits[split] = (scale * noise + {"near ties": 20}.get(shape, 0)).astype(np.float32)
    write_json(tmp_path / "config.json", json.loads(trial.config.to_json()))
    artifacts.write_start(task, trial)
    artifacts.write_result(task, trial, Outcome(logits, 0, None), {})
    assert verify_run(tmp_path).differences == []
    assert verify_run(tmp_path).state == "OK"


def test_a_decision_knows_validation_alone(task, tmp_path):
    rng, decisions = np.random.default_rng(0), []
    val, shapes = rng.normal(size=(len(task.dataset.val), task.regrouping.num_pseudo_classes)), {"one": 1, "two": 9}
    for name, scale in shapes.items():
        test = scale * rng.normal(size=(len(task.dataset.test), val.shape[1]))
        trial = Trial(config_of("rg", **TEN), tmp_path / name)
        artifacts.write_result(task, trial, Outcome({"val": val, "test": test}, 0, None), {})
        decisions.append(json.loads((tmp_path / name / "decision.json").read_text()))
        assert "decision.json" in json.loads((tmp_path / name / "manifest.json").read_text())["files"]
    assert decisions[0] == decisions[1]
    assert decisions[0]["split"] == "val" and decisions[0]["n"] == len(val)
    assert set(decisions[0]["by_aggregation"]) == {"max", "sum"}


def test_recalls_that_validation_misses_are_a_warning(task, tmp_path, caplog):
    goal = Goal(min_recall=dict.fromkeys(task.dataset.class_names, 1.0))
    zeros = {
        split: np.zeros((len(task.dataset.splits[split]), len(task.regrouping.parent))) for split in ("val", "test")
    }
    trial = Trial(config_of("rg", **TEN, **{"decision.min_recall": "0:1"}), tmp_path)
    artifacts.write_result(replace(task, goal=goal), trial, Outcome(zeros, 0, None), {})
    assert "config.decision.min_recall=0:1: on validation " in caplog.text
    assert "reaches 0, " in caplog.text
