"""What a sweep runs: the paper's grids, the settings, and the choice."""

import json
from collections import Counter
from pathlib import Path

import pytest
from study import FILE, SEEDS, group_of, plan_of

from rgjax import config as settings
from rgjax.config import VARIANTS
from rgjax.errors import UserError
from rgjax.storage import manifest
from rgjax.storage.files import write_json
from rgjax.sweep.plan import Plan, Seeds, best, read_groups

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE)
    return str(path)


def grids(name):
    groups = read_groups(str(CONFIGS / name), {}, common={}, quick=False)
    return {(group.study, group.label): group.grid for group in groups}


def values(grid, field):
    return sorted({point[field] for point in grid})


@pytest.mark.parametrize(
    ("name", "thresholds", "rules"),
    [
        ("cifar100_binary.py", [300, 400, 500, 600, 700, 800], ["target"]),
        ("ham10000_binary.py", [250, 300, 350, 400, 450, 500], ["target"]),
        ("ham10000.py", [200, 300, 400, 500, 600, 700], ["ratio", "target"]),
    ],
)
def test_the_grids_are_those_of_the_papers_appendix(name, thresholds, rules):
    found = {label: grid for (_, label), grid in grids(name).items()}
    assert values(found["focal"], "loss.gamma") == [0.5, 1, 1.5, 2, 2.5, 3]
    assert values(found["la"], "loss.tau") == [0, 0.5, 1, 1.5, 2, 2.5]
    assert values(found["ldam"], "loss.max_m") == [0, 0.5, 1]
    assert values(found["ldam"], "loss.s") == [10, 20, 30]
    assert len(found["ldam"]) == 9
    for label in (label for label in found if label.startswith("rg")):
        assert values(found[label], "regroup.threshold") == thresholds
        assert values(found[label], "regroup.rule") == rules
        assert len(found[label]) == len(thresholds) * len(rules)
    assert {label.split()[0] for label in found} == set(settings.METHODS)


def test_sentences_have_no_method_that_makes_images():
    labels = {label for _, label in grids("phrasebank.py")}
    assert labels == set(settings.METHODS) - {"dsmt"}


def test_the_paper_is_its_three_tables_and_ablations():
    found = grids("paper.py")
    assert {study for study, _ in found} == {"cifar100_binary", "ham10000_binary", "ham10000", "phrasebank"}
    assert {label for study, label in found if study == "phrasebank"} == set(
        ["ce", "wce", "focal", "ldam", "la", "ros", "rg", "rg_wce"]
    )
    assert {f"rg {name}" for name in VARIANTS} <= {label for _, label in found}


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.py")))
def test_every_point_is_a_run_of_its_own(name, tmp_path):
    plan = plan_of(str(CONFIGS / name), tmp_path)
    runs = plan.all_runs()
    assert len({run.workdir for run in runs}) == len(runs) == sum(sum(plan.count(group)) for group in plan.groups)
    for run in runs:
        settings.validate(run.config)


def test_seeds_of_the_stages(file, tmp_path):
    plan = plan_of(file, tmp_path)
    assert plan.tuning_runs(group_of(plan, "ce")) == []
    focal = group_of(plan, "focal")
    assert [(run.config.seed, run.config.data.seed) for run in plan.tuning_runs(focal)] == [(1000, 1000)] * 4
    reported = plan.reported_runs(focal, focal.grid[1])
    assert [(run.config.seed, run.config.data.seed) for run in reported] == [(0, 0), (1, 1), (2, 2)]
    assert {run.config.loss.gamma for run in reported} == {1.0}
    fixed = Seeds(1000, range(2), fixed_split=True).overrides(1)
    assert fixed == {"seed": 1}


def test_what_is_given_is_not_searched_and_variants_hold(file, tmp_path):
    plan = plan_of(file, tmp_path, {"loss.gamma": 3.0, "regroup.clustering": "kmeans", "train.epochs": 7})
    assert plan.count(group_of(plan, "focal")) == (0, 3)
    for run in plan.all_runs():
        assert run.config.train.epochs == 7
        assert run.config.loss.gamma == 3.0
        assert (run.config.regroup.clustering == "random") == (run.group.variant == "random groups")


def test_a_common_grid_is_the_same_for_all(file, tmp_path):
    plan = plan_of(file, tmp_path, common={"train.lr": [0.1, 0.2], "train.weight_decay": [0.0, 1e-4]})
    assert {group.label: len(group.grid) for group in plan.groups} == {
        "ce": 4, "focal": 16, "rg": 8, "rg random groups": 8,
    }  # fmt: skip
    for group in plan.groups:
        pairs = Counter((point["train.lr"], point["train.weight_decay"]) for point in group.grid)
        assert set(pairs.values()) == {len(group.grid) // 4}


def test_numbers_of_numpy_are_numbers(file, tmp_path):
    Path(file).write_text("import numpy as np\n" + FILE.replace("(100, 200)", "np.arange(100, 300, 100)"))
    group = group_of(plan_of(file, tmp_path), "rg")
    assert json.dumps(group.grid) == '[{"regroup.threshold": 100}, {"regroup.threshold": 200}]'


def test_quick_keeps_two_points_a_method(file, tmp_path):
    plan = plan_of(file, tmp_path, quick=True)
    assert {group.label: len(group.grid) for group in plan.groups} == {
        "ce": 1, "focal": 2, "rg": 2, "rg random groups": 2,
    }  # fmt: skip


def test_validation_chooses_and_the_first_of_equals(file, tmp_path):
    plan = plan_of(file, tmp_path)
    focal = group_of(plan, "focal")
    assert best(plan, focal) is None
    # Test scores run the other way: a choice by them would be another.
    for run, ba in zip(plan.tuning_runs(focal)[:3], (0.6, 0.8, 0.8), strict=True):
        write_json(run.workdir / "result.json", {"val": {"ba": ba, "macro_ap": -ba}, "test": {"ba": 1 - ba}})
        manifest.write(run.workdir, ["result.json"])
    assert best(plan, focal) == {"loss.gamma": 1.0}
    by_ap = Plan(plan.root, plan.groups, {}, SEEDS, "macro_ap")
    assert best(by_ap, focal) == {"loss.gamma": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0.5, 1.0, 1.5", "-1.0, 1.0, 1.5"), "config.loss.gamma=-1.0 is out of range"),
        (('"loss.gamma"', '"loss.gama"'), "unknown field in sweep"),
        (('"method": "focal"', '"method": "fokal"'), "did you mean 'focal'"),
        (('"variant": "random groups"', '"variant": "randm groups"'), "did you mean 'random groups'"),
        (("(100, 200)", "('many', 200)"), "gives regroup.threshold the value 'many'"),
        (("def sweep", "def sweeep"), "has no sweep()"),
        (("yield {", "yield {{"), "cannot be read"),
        (("for threshold", "1 / 0\n    for threshold"), "ZeroDivisionError"),
        (('"loss.gamma": gamma', '"seed": 3'), "seeds are the sweep's own"),
        (('{"train.epochs": 3}', '{"train.epochs": 3 / 0}'), "get_config() of"),
    ],
)
def test_a_mistake_in_the_file_is_told(change, message, tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE.replace(*change))
    with pytest.raises(UserError) as error:
        for run in plan_of(str(path), tmp_path).all_runs():
            _ = run.config
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["phrasebank.py", "text.py"])
def test_sentences_are_not_asked_for_synthetic_images(name):
    methods = {group.method for group in read_groups(f"configs/{name}", {}, common={}, quick=False)}
    assert {"ce", "ros", "rg"} <= methods
    assert "dsmt" not in methods
