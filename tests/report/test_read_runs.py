"""What workdirs in each state, with damaged files, and of single runs become in the report."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rgjax import metrics
from rgjax.report.reading import read_history, read_runs, read_sweep, read_test_logits
from rgjax.report.runs import Entry
from rgjax.report.study import count_statuses, describe_progress, make_studies
from rgjax.report.tables import write_parquet
from rgjax.storage import manifest
from tests.support.sweeps import class_logits

pytestmark = pytest.mark.xdist_group("finished sweep")


@pytest.fixture
def read(capsys):
    """Reads the runs of a sweep; returns them and the warnings."""

    def read_sweep_runs(sweep):
        capsys.readouterr()
        runs = read_runs(sweep.folder)
        return runs, capsys.readouterr().err.splitlines()

    return read_sweep_runs


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


def test_unfinished_runs_have_a_status_and_the_dataset_of_a_finished_run(sweep_of, read):
    sweep = sweep_of()
    sweep.run("a", "ce")
    for name in ("running", "pending", "failed"):
        sweep.run(name, "rg", state=name)
    runs, warnings = read(sweep)
    assert sorted(run.status for run in runs) == ["done", "failed", "pending", "running"]
    assert {run.row["dataset"] for run in runs} == {"digits_set"}
    assert [run.row["error"] for run in runs if run.status == "failed"] == ["the loss is <b>not</b> finite"]
    assert not warnings


def test_a_truncated_file_makes_a_run_damaged_with_one_warning(sweep_of, read):
    sweep = sweep_of()
    for name in ("config", "run", "result", "provenance"):
        path = sweep.run(name, "ce") / f"{name}.json"
        path.write_text(path.read_text()[: path.stat().st_size // 2])
    runs, warnings = read(sweep)
    assert len(runs) == len(warnings) == 4
    for run, warning in zip(sorted(runs, key=lambda run: run.folder), sorted(warnings), strict=True):
        assert run.status == "damaged"
        assert f"{run.folder.name}.json: corrupted" in run.row["error"]
        assert str(run.folder) in warning


def test_a_malformed_result_makes_a_run_damaged(sweep_of, read):
    changes = [
        lambda result: result.pop("test"),
        lambda result: result["test"].update(ba="high"),
        lambda result: result["val"]["ap"].pop("8"),
        lambda result: result["test"].update(confusion=[[1]]),
        lambda result: result["test"].update(ba_ci=None),
    ]
    sweep = sweep_of()
    for number, change in enumerate(changes):
        path = sweep.run(f"run{number}", "ce", seed=number) / "result.json"
        result = json.loads(path.read_text())
        change(result)
        path.write_text(json.dumps(result))
    runs, warnings = read(sweep)
    assert [run.status for run in runs] == ["damaged"] * len(changes)
    assert len(warnings) == len(changes)


def test_single_runs_belong_to_their_dataset_and_become_variants_if_settings_differ(sweep_of, read):
    sweep = sweep_of()
    for seed in (0, 1):
        sweep.run(f"a{seed}", "rg", stage=None, seed=seed, **{"data.data_dir": f"/{seed}", "train.on_nan": "skip"})
        sweep.run(f"b{seed}", "rg", stage=None, seed=seed, **{"regroup.threshold": 50})
        sweep.run(f"c{seed}", "ce", stage=None, seed=seed)
    sweep.run("d", "focal", stage=None, state="pending")
    runs, _ = read(sweep)
    assert {run.row["study"] for run in runs} == {"digits_set"}
    assert {run.row["run_id"] for run in runs} == {"a0", "a1", "b0", "b1", "c0", "c1", "d"}
    (study,) = make_studies(runs, {})
    counts = {entry.name: len(study.finished(entry)) for entry in study.entries}
    assert counts == {"CE": 2, "Focal": 0, "RG (regroup.threshold=0)": 2, "RG (regroup.threshold=50)": 2}


def test_single_runs_on_custom_data_are_named_by_its_path(sweep_of, read):
    sweep = sweep_of()
    for place in ("/a/cats", "/a/dogs.csv"):
        custom = {"data.name": "images", "data.manual_dir": place}
        sweep.run(place.rpartition("/")[2], "ce", stage=None, state="pending", **custom)
    runs, _ = read(sweep)
    assert [(run.row["study"], run.row["dataset"]) for run in runs] == [("cats", "cats"), ("dogs", "dogs")]


def test_custom_data_folders_of_the_same_name_are_not_averaged(sweep_of, read):
    sweep = sweep_of()
    for seed, place in enumerate(("/a/photos", "/b/photos")):
        custom = {"data.name": "images", "data.manual_dir": place, "seed": seed}
        sweep.run(f"run{seed}", "ce", stage=None, state="pending", **custom)
    runs, _ = read(sweep)
    assert {run.row["variant"] for run in runs} == {"data.manual_dir=/a/photos", "data.manual_dir=/b/photos"}


def test_a_repeated_run_counts_once_with_a_warning(sweep_of, read):
    sweep = sweep_of()
    for name in ("a", "b"):
        sweep.run(name, "ce", stage=None)
    runs, (warning,) = read(sweep)
    assert "repeats" in warning
    assert len(runs) == 2
    assert len(make_studies(runs, {})[0].finished(Entry("ce"))) == 1


def test_a_population_is_read_as_its_seeds_and_weights_are_skipped(sweep_of, read):
    sweep = sweep_of()
    sweep.run("all", "ce", stage=None, state="pending", population=2)
    for seed in (0, 1):
        sweep.run(f"all/seed-{seed}", "ce", stage=None, seed=seed)
    (sweep.folder / "bert").mkdir()
    (sweep.folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    runs, (warning,) = read(sweep)
    assert [run.row["workdir"] for run in runs] == ["digits/all/seed-0", "digits/all/seed-1"]
    assert "bert/config.json: not the config of a run" in warning


def test_planned_runs_without_a_folder_are_pending(sweep_of, read):
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
    _, plans = read_sweep(sweep.folder)
    counts = count_statuses(make_studies(runs, plans))
    assert counts == {"done": 1, "running": 0, "pending": 4, "failed": 1, "damaged": 1}
    assert describe_progress(counts) == "incomplete: 1 of 7 runs done, 4 pending, 1 failed, 1 damaged"


@pytest.mark.parametrize("how", ["max", "sum"])
def test_test_logits_are_aggregated_as_in_the_run(how, sweep_of, read):
    sweep = sweep_of()
    folder = sweep.run("a", "rg", overrides={"regroup.aggregate": how})
    (run,), _ = read(sweep)
    predictions = read_test_logits(run)
    assert predictions is not None
    logits, labels = predictions
    with np.load(folder / "predictions.npz") as file:
        expected = class_logits(file["test_logits"].astype(float), file["parent"], how)
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)
    ap = metrics.average_precision(metrics.log_odds(logits), labels)
    np.testing.assert_allclose(ap, list(run.test_ap.values()), rtol=1e-6)


def test_corrupted_or_inconsistent_predictions_are_skipped_with_a_warning(sweep_of, read, capsys):
    changes = {
        "parent": {"parent": np.array([0, 2], np.int32)},
        "columns": {"parent": np.array([0], np.int32)},
        "label": {"test_labels": np.full(100, 2)},
        "length": {"test_labels": np.zeros(99, int)},
        "nan": {"test_logits": np.full((100, 2), np.nan)},
    }
    sweep = sweep_of()
    for seed, (name, change) in enumerate(changes.items()):
        path = sweep.run(name, "ce", seed=seed) / "predictions.npz"
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays | change)
    path = sweep.run("truncated", "ce", seed=99) / "predictions.npz"
    path.write_bytes(path.read_bytes()[:500])
    runs, _ = read(sweep)
    assert [read_test_logits(run) for run in runs] == [None] * 6
    warnings = capsys.readouterr().err.splitlines()
    assert ["predictions.npz: corrupted" in warning for warning in warnings] == [True] * 6


def test_a_result_changed_after_the_run_is_damaged(sweep_of, read):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    manifest.write(folder, ["result.json"])
    (run,), warnings = read(sweep)
    assert (run.status, warnings) == ("done", [])
    path = folder / "result.json"
    path.write_text(path.read_text().replace("0.", "0.1", 1))
    (run,), (warning,) = read(sweep)
    assert run.status == "damaged"
    assert f"{folder}: result.json: corrupted (" in warning


def test_unreadable_json_and_numbers_out_of_range_are_damage(sweep_of, read):
    sweep = sweep_of()
    contents = [
        ("result", "[" * 100_000),
        ("result", '{"test": NaN}'),
        ("config", '{"method": "rg", "data": {}, "seed": Infinity}'),
        ("config", '{"method": "rg", "data": {}, "seed": 1e999}'),
        ("config", '{"method": "rg", "data": {}, "seed": 99999999999999999999}'),
    ]
    for number, (name, content) in enumerate(contents):
        (sweep.run(f"run{number}", "ce") / f"{name}.json").write_text(content)
    runs, warnings = read(sweep)
    assert [run.status for run in runs] == ["damaged"] * len(contents)
    assert len(warnings) == len(contents)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_scores_that_are_not_finite_are_in_no_mean(value, sweep_of, read, capsys):
    sweep = sweep_of()
    folder = sweep.run("a", "ce")
    result = json.loads((folder / "result.json").read_text())
    result["test"]["ba"] = value
    (folder / "result.json").write_text(json.dumps(result))
    step = {"step": 40, "epoch": 1, "train_loss": value, "val_ba": 0.5}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(step) + "\n" + "[" * 100_000 + "\n")
    (run,), _ = read(sweep)
    assert run.status == "damaged"
    assert [row["step"] for row in read_history(run)] == [10, 20, 30]
    warnings = capsys.readouterr().err.splitlines()
    assert ["line 4" in warnings[0], "line 5" in warnings[1]] == [True, True]


def test_hand_written_settings_are_shown(sweep_of, read):
    """Lists, integers beyond 64 bits, and a folder whose name is not UTF-8."""
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
