"""Verification of runs that were written by hand, with figures worked out by hand, and of what a run itself writes."""

import json
import sys
from functools import partial

import numpy as np
import pytest

from rgjax import artifacts, experiment, metrics
from rgjax.metrics import bootstrap_intervals
from rgjax.report import __main__, verify
from rgjax.report.reading import flat
from rgjax.report.verify import verify_run
from rgjax.storage import manifest
from rgjax.storage.files import write_json, write_npz
from rgjax.training.trainer import Outcome, Trial
from tests.support.finished import config_of

# Of class b, by falling log-odds: b a b a a, of which the first two are taken for b's.
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
PREDICTIONS = {"parent": np.array([0, 0, 1]), "class_names": np.array(["a", "b"])} | {
    f"{part}_{name}": values
    for part in ("val", "test")
    for name, values in {
        # The second group of a is so unlikely that its sum is its largest.
        "logits": np.stack([0 * ODDS, 0 * ODDS - 60, ODDS], axis=1),
        "labels": LABELS,
        "ids": np.array(list("vwxyz")),
    }.items()
}


INTERVALS = bootstrap_intervals(np.stack([0 * ODDS, ODDS], axis=1), LABELS, seed=3)


def result():
    ap = dict(zip("ab", INTERVALS["ap"].tolist(), strict=True))
    figures = FIGURES | {f"{name}_ci": INTERVALS[name].tolist() for name in ("ba", "macro_ap")} | {"ap_ci": ap}
    return {
        "dataset": "by hand", "method": "rg", "seed": 3, "num_classes": 2, "num_pseudo_classes": 3, "aggregate": "max",
        "train_counts": {"a": 4, "b": 2}, "val": figures, "test": figures,
        "test_by_aggregation": {"max": figures, "sum": figures}, "timing": {"total_s": 1.5},
    }  # fmt: skip


def write_run(folder, result, **changes):
    write_json(folder / "config.json", {"method": "rg", "seed": 3, "regroup": {"aggregate": "max"}})
    write_npz(folder / "predictions.npz", **(PREDICTIONS | changes))
    write_npz(folder / "regrouping.npz", parent=PREDICTIONS["parent"], pseudo_labels=np.array([0, 0, 1, 0, 2, 2]))
    write_json(folder / "result.json", result)
    return sealed(folder)


def sealed(folder):
    manifest.write(folder, ["config.json", "predictions.npz", "regrouping.npz", "result.json"])
    return folder


def set_in(tree, name, value):
    *groups, leaf = name.split(".")
    for group in groups:
        tree = tree[group]
    tree[leaf] = value


def told(*arguments, capsys):
    code = __main__.main([*map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


def test_runs_at_any_depth_whose_figures_are_right_are_verified(tmp_path, capsys):
    write_run(tmp_path / "study" / "one", result())
    write_run(tmp_path / "two", result())
    write_json(tmp_path / "begun" / "config.json", {})
    code, lines = told("--verify", tmp_path, capsys=capsys)
    assert code == 0
    assert lines == ["OK          study/one", "OK          two", "2 finished runs: 2 OK"]


def names_of_figures():
    return [name for name in flat(result()) if name != "dataset" and not name.startswith("timing.")]


@pytest.mark.parametrize("name", names_of_figures())
def test_a_figure_that_is_not_what_the_predictions_give_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "bootstrap_intervals", lambda *_, seed: INTERVALS)  # to save a tenth of a second each
    tampered = json.loads(json.dumps(result()))
    before = flat(tampered)[name]
    moved = before + "x" if isinstance(before, str) else (np.array(before) + 2e-6).tolist()
    if isinstance(before, list):
        moved = [moved[0], *before[1:]] if name.endswith(("ci", "ci.a", "ci.b")) else [[3, 0], [1, 1]]
    set_in(tampered, name, moved)
    (difference,) = verify_run(write_run(tmp_path, tampered)).differences
    assert difference.startswith(f"{name} is ") and ", not " in difference


def test_only_what_float32_sums_leave_open_is_left_open(tmp_path):
    nearly_tied = PREDICTIONS["test_logits"] * np.array([1, 1, 1e-7], np.float32)
    for how, differences in (("max", 1), ("sum", 0)):
        tampered = json.loads(json.dumps(result()))
        tampered["test_by_aggregation"][how]["ap"]["b"] += 2e-6
        folder = write_run(tmp_path / how, tampered, test_logits=nearly_tied)
        assert len(verify_run(folder).differences) == differences


@pytest.mark.parametrize("value", [None, "0.5", [0.5, 0.5], {"a": 0.5}, True, float("inf")], ids=repr)
def test_what_is_no_such_number_is_found(value, tmp_path):
    tampered = json.loads(json.dumps(result()))
    tampered["test"]["ba"] = value
    folder = write_run(tmp_path, result())
    (folder / "result.json").write_text(json.dumps(tampered))
    assert any("test.ba" in difference for difference in verify_run(sealed(folder)).differences)


def test_figures_that_are_gone_or_of_no_class_are_found(tmp_path):
    tampered = json.loads(json.dumps(result()))
    del tampered["val"]["macro_ap"]
    tampered["test"]["ap"]["c"] = 0.9
    found = verify_run(write_run(tmp_path, tampered)).differences
    assert found == ["test.ap.c is of no class", "val.macro_ap is not there"]


def test_a_swapped_label_and_a_changed_logit_are_found_without_checksums(tmp_path, capsys):
    swapped, moved = LABELS.copy(), PREDICTIONS["val_logits"].copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    moved[0, 2] = -9
    write_run(tmp_path / "swapped", result(), test_labels=swapped)
    write_run(tmp_path / "moved", result(), val_logits=moved)
    code, (first, second, last) = told("--verify", tmp_path, capsys=capsys)
    assert code == 1 and last == "2 finished runs: 2 DIFFERS"
    assert first.startswith("DIFFERS     moved: val.ba is 0.583333333, not 0.333333333; ")
    assert second.startswith("DIFFERS     swapped: test.ba is 0.583333333, not 1; ") and second.endswith(" more")


def test_a_flipped_byte_of_any_file_is_found(tmp_path):
    for name in ("config.json", "predictions.npz", "regrouping.npz", "result.json"):
        folder = write_run(tmp_path / name, result())
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)
        assert f"'{name}': checksum" in verify_run(folder).differences


def test_a_run_without_a_manifest_is_unverified(tmp_path, capsys):
    (write_run(tmp_path / "run", result()) / "manifest.json").unlink()
    code, lines = told("--verify", tmp_path, capsys=capsys)
    assert (code, lines) == (1, ["unverified  run: no manifest", "1 finished run: 1 unverified"])


@pytest.mark.parametrize("name", ["predictions.npz", "regrouping.npz", "result.json", "config.json"])
@pytest.mark.parametrize("content", [None, b"", b"PK\3\4", b"[]", b"{}"], ids=repr)
def test_damaged_files_are_told_in_a_line(name, content, tmp_path, capsys):
    folder = write_run(tmp_path, result())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
        sealed(folder)
    code, (line, _) = told("--verify", tmp_path, capsys=capsys)
    assert code == 1 and line.startswith("DIFFERS     .: ")


def test_nothing_to_verify_is_wrong_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--verify", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        __main__.cli()
    assert ended.value.code == 2
    assert "there is no finished run below" in capsys.readouterr().err


TEN = {"seed": 5, "data.positive": "", "regroup.threshold": 50}  # all ten digits, in about three groups each


@pytest.fixture(scope="module")
def task():
    trial = Trial(config_of("rg", **TEN), None)
    return experiment.prepare(trial.config)


@pytest.mark.parametrize(
    ("shape", "how"),
    [("trained", "max"), ("trained", "sum"), ("near ties", "sum"), ("constant", "max"), ("saturated", "max")],
)
def test_what_a_run_writes_is_verified(shape, how, task, tmp_path, monkeypatch):
    for module in (metrics, verify):
        monkeypatch.setattr(module, "bootstrap_intervals", partial(bootstrap_intervals, resamples=100))
    trial = Trial(config_of("rg", **TEN, **{"regroup.aggregate": how}), tmp_path)
    rng, logits = np.random.default_rng(0), {}
    for part in ("val", "test"):
        rows = rng.normal(size=(len(getattr(task.dataset, part)), task.regrouping.num_pseudo_classes))
        scale = {"trained": 5, "near ties": 1e-6, "constant": 0, "saturated": 200}[shape]
        logits[part] = (scale * rows + {"near ties": 20}.get(shape, 0)).astype(np.float32)
    write_json(tmp_path / "config.json", json.loads(trial.config.to_json()))
    artifacts.write_start(task, trial)
    artifacts.write_result(task, trial, Outcome(logits, 0, None), {})
    assert verify_run(tmp_path).differences == []
    assert verify_run(tmp_path).state == "OK"
