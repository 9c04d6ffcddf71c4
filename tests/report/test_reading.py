"""From files to rows: what each status, damage and lone run becomes."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rgjax import metrics
from rgjax.regroup import Regrouping
from rgjax.report.reading import read_history, read_runs, read_sweep, read_test_logits
from rgjax.report.runs import Label
from rgjax.report.study import state, statuses, studies
from rgjax.report.tables import write_parquet
from rgjax.storage import manifest


def read(sweep):
    warnings = []
    return read_runs(sweep.folder, warnings.append), warnings


def test_parquet_has_a_row_for_each_run_with_the_numbers_of_its_result(finished_sweep):
    rows = pq.read_table(finished_sweep / "results.parquet").to_pylist()
    folders = sorted(path.parent for path in finished_sweep.rglob("result.json"))
    assert sorted(row["workdir"] for row in rows) == [f.relative_to(finished_sweep).as_posix() for f in folders]
    for row in rows:
        result = json.loads((finished_sweep / row["workdir"] / "result.json").read_text())
        config = json.loads((finished_sweep / row["workdir"] / "config.json").read_text())
        assert row["status"] == "done"
        assert (row["test_ba"], row["val_ba"]) == (result["test"]["ba"], result["val"]["ba"])
        assert [row["test_ba_low"], row["test_ba_high"]] == result["test"]["ba_ci"]
        assert row["test_macro_ap_sum"] == result["test_by_aggregation"]["sum"]["macro_ap"]
        assert {name: row[f"test_ap_{name}"] for name in result["train_counts"]} == result["test"]["ap"]
        assert (row["loss.gamma"], row["train.lr"], row["train.steps"]) == (config["loss"]["gamma"], 0.01, None)
        assert (row["seed"], row["data_seed"], row["data.seed"]) == (config["seed"],) * 3
        assert row["command"].endswith(f"--config.seed={row['seed']}")
    binary = [row for row in rows if row["study"] == "digits"]
    assert all(row["test_ap_neutral"] is None for row in binary)


def test_rows_are_sorted_by_study_method_variant_stage_and_seed(finished_sweep):
    rows = pq.read_table(finished_sweep / "results.parquet").to_pylist()
    keys = [(row["study"], row["method"], row["variant"], row["stage"]) for row in rows]
    order = ["ce", "wce", "focal", "ldam", "rg", "rg_wce"]
    assert keys == sorted(keys, key=lambda key: (key[0], order.index(key[1]), key[2], key[3]))
    assert [row["seed"] for row in rows[:3]] == [0, 1, 2]


def test_unfinished_runs_have_their_status_and_the_data_set_of_a_finished_one(sweep_of):
    sweep = sweep_of()
    sweep.run("a", "ce")
    for name in ("running", "pending", "failed"):
        sweep.run(name, "rg", state=name)
    runs, warnings = read(sweep)
    assert sorted(run.status for run in runs) == ["done", "failed", "pending", "running"]
    assert {run.row["dataset"] for run in runs} == {"digits_set"}
    assert [run.row["error"] for run in runs if run.status == "failed"] == ["the loss is <b>not</b> finite"]
    assert not warnings


@pytest.mark.parametrize("name", ["config", "run", "result", "provenance"])
def test_half_a_file_is_a_warning_and_a_row(name, sweep_of):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    path = folder / f"{name}.json"
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    (run,), (warning,) = read(sweep)
    assert run.status == "damaged"
    assert f"{name}.json is damaged" in run.row["error"]
    assert str(folder) in warning


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.pop("test"),
        lambda result: result["test"].update(ba="high"),
        lambda result: result["val"]["ap"].pop("8"),
        lambda result: result["test"].update(confusion=[[1]]),
        lambda result: result["test"].update(ba_ci=None),
    ],
)
def test_a_result_that_is_no_result_is_damaged(change, sweep_of):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    result = json.loads((folder / "result.json").read_text())
    change(result)
    (folder / "result.json").write_text(json.dumps(result))
    (run,), warnings = read(sweep)
    assert (run.status, len(warnings)) == ("damaged", 1)


def test_lone_runs_belong_to_their_data_set_and_settings_that_differ_tell_them_apart(sweep_of):
    sweep = sweep_of()
    for seed in (0, 1):
        sweep.run(f"a{seed}", "rg", stage=None, seed=seed)
        sweep.run(f"b{seed}", "rg", stage=None, seed=seed, **{"regroup.threshold": 50})
        sweep.run(f"c{seed}", "ce", stage=None, seed=seed)
    sweep.run("d", "focal", stage=None, state="pending")
    runs, _ = read(sweep)
    assert {run.row["study"] for run in runs} == {"digits_set"}
    assert {run.row["run_id"] for run in runs} == {"a0", "a1", "b0", "b1", "c0", "c1", "d"}
    (study,) = studies(runs, {})
    counts = {label.name: len(study.finished(label)) for label in study.labels}
    assert counts == {"CE": 2, "Focal": 0, "RG (regroup.threshold=0)": 2, "RG (regroup.threshold=50)": 2}


def test_lone_runs_on_data_of_ones_own_are_told_apart_by_their_place(sweep_of):
    sweep = sweep_of()
    for place in ("/a/cats", "/a/dogs.csv"):
        own = {"data.name": "images", "data.manual_dir": place}
        sweep.run(place.rpartition("/")[2], "ce", stage=None, state="pending", **own)
    runs, _ = read(sweep)
    assert [(run.row["study"], run.row["dataset"]) for run in runs] == [("cats", "cats"), ("dogs", "dogs")]


def test_a_repetition_is_told_and_counts_once(sweep_of):
    sweep = sweep_of()
    for name in ("a", "b"):
        sweep.run(name, "ce", stage=None)
    runs, (warning,) = read(sweep)
    assert "repeats" in warning
    assert len(runs) == 2
    assert len(studies(runs, {})[0].finished(Label("ce"))) == 1


def test_a_population_is_its_seeds_and_weights_are_no_run(sweep_of):
    sweep = sweep_of()
    sweep.run("all", "ce", stage=None, state="pending", population=2)
    for seed in (0, 1):
        sweep.run(f"all/seed-{seed}", "ce", stage=None, seed=seed)
    (sweep.folder / "bert").mkdir()
    (sweep.folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    runs, (warning,) = read(sweep)
    assert [run.row["workdir"] for run in runs] == ["digits/all/seed-0", "digits/all/seed-1"]
    assert "bert/config.json is not that of a run" in warning


def test_what_a_sweep_plans_and_has_not_begun_is_pending(sweep_of):
    sweep = sweep_of()
    sweep.run("a", "ce")
    (sweep.run("b", "ce", seed=1) / "config.json").write_text("{")
    sweep.run("c", "rg", variant="random groups", state="failed")
    methods = {
        "ce": {"variant": "", "tuning": 0, "reported": 3},
        "rg random groups": {"variant": "random groups", "tuning": 2, "reported": 2},
    }
    (sweep.folder / "sweep.json").write_text(json.dumps({"studies": {"digits": {"methods": methods}}}))
    runs, _ = read(sweep)
    _, plans = read_sweep(sweep.folder, print)
    counts = statuses(studies(runs, plans))
    assert counts == {"done": 1, "running": 0, "pending": 4, "failed": 1, "damaged": 1}
    assert state(counts) == "incomplete: 1 of 7 runs done, 4 pending, 1 failed, 1 damaged"


@pytest.mark.parametrize("how", ["max", "sum"])
def test_test_logits_are_aggregated_as_the_run_does(how, sweep_of):
    sweep = sweep_of()
    folder = sweep.run("a", "rg", overrides={"regroup.aggregate": how})
    (run,), _ = read(sweep)
    found = read_test_logits(run, print)
    assert found is not None
    with np.load(folder / "predictions.npz") as file:
        expected = Regrouping(np.zeros(0, np.int32), file["parent"]).class_logits(file["test_logits"], how)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    ap = metrics.average_precision(metrics.log_odds(found[0]), found[1])
    np.testing.assert_allclose(ap, list(run.test_ap.values()), rtol=1e-6)


def test_damaged_predictions_are_told_and_left_out(sweep_of):
    sweep = sweep_of()
    path = sweep.run("a", "ce") / "predictions.npz"
    path.write_bytes(path.read_bytes()[:500])
    (run,), _ = read(sweep)
    warnings = []
    assert read_test_logits(run, warnings.append) is None
    assert "predictions.npz is damaged" in warnings[0]


def test_folders_of_one_name_are_not_averaged(sweep_of):
    sweep = sweep_of()
    for seed, place in enumerate(("/a/photos", "/b/photos")):
        own = {"data.name": "images", "data.manual_dir": place, "seed": seed}
        sweep.run(f"run{seed}", "ce", stage=None, state="pending", **own)
    runs, _ = read(sweep)
    assert {run.row["variant"] for run in runs} == {"data.manual_dir=/a/photos", "data.manual_dir=/b/photos"}


def test_a_result_that_changed_after_the_run_is_damaged(sweep_of):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    manifest.write(folder, ["result.json"])
    (run,), warnings = read(sweep)
    assert (run.status, warnings) == ("done", [])
    path = folder / "result.json"
    path.write_text(path.read_text().replace("0.", "0.1", 1))
    (run,), warnings = read(sweep)
    assert run.status == "damaged"
    assert warnings == [
        f"{folder}: result.json is damaged: it has {path.stat().st_size} bytes, not {path.stat().st_size - 1}"
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result", "[" * 100_000),
        ("result", '{"test": NaN}'),
        ("config", '{"method": "rg", "data": {}, "seed": Infinity}'),
        ("config", '{"method": "rg", "data": {}, "seed": 1e999}'),
        ("config", '{"method": "rg", "data": {}, "seed": 99999999999999999999}'),
    ],
    ids=["deep", "nan", "infinite", "large", "whole"],
)
def test_numbers_that_are_none_and_what_is_too_deep_is_damage(name, content, sweep_of):
    sweep = sweep_of()
    (sweep.run("a", "ce") / f"{name}.json").write_text(content)
    (run,), warnings = read(sweep)
    assert (run.status, len(warnings)) == ("damaged", 1)


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), 10**400])
def test_a_score_that_is_no_number_is_in_no_mean(figure, sweep_of):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    result = json.loads((folder / "result.json").read_text())
    result["test"]["ba"] = figure
    (folder / "result.json").write_text(json.dumps(result))
    step = {"step": 40, "epoch": 1, "train_loss": figure, "val_ba": 0.5}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(step) + "\n" + "[" * 100_000 + "\n")
    (run,), _ = read(sweep)
    assert run.status == "damaged"
    warnings = []
    assert [row["step"] for row in read_history(run, warnings.append)] == [10, 20, 30]
    assert ["line 4" in warnings[0], "line 5" in warnings[1]] == [True, True]


def test_settings_that_only_a_hand_can_have_written_are_shown(sweep_of):
    """Lists, whole numbers beyond 64 bits, and a folder whose name is not UTF-8."""
    sweep = sweep_of()
    for name in "ab":
        folder = sweep.run(name, "ce", stage=None)
        config = json.loads((folder / "config.json").read_text())
        config["regroup"] |= {"seed": [1], "threshold": 10**30}
        config["data"]["manual_dir"] = "/photos\udcff"
        (folder / "config.json").write_text(json.dumps(config))
    runs, _ = read(sweep)
    write_parquet(sweep.folder / "results.parquet", runs)
    row = pq.read_table(sweep.folder / "results.parquet").to_pylist()[0]
    assert (row["regroup.seed"], row["regroup.threshold"], row["data.manual_dir"]) == ("[1]", str(10**30), "/photos?")


@pytest.mark.parametrize(
    "change",
    [
        {"parent": np.array([0, 2], np.int32)},
        {"test_labels": np.full(100, 2)},
        {"test_labels": np.zeros(99, int)},
        {"test_logits": np.full((100, 2), np.nan)},
    ],
    ids=["parent", "label", "rows", "nan"],
)
def test_predictions_that_do_not_fit_together_are_told_and_left_out(change, sweep_of):
    sweep = sweep_of()
    path = sweep.run("a", "ce") / "predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | change)
    (run,), _ = read(sweep)
    warnings = []
    assert read_test_logits(run, warnings.append) is None
    assert "predictions.npz is damaged" in warnings[0]
