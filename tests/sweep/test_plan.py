"""Sweep plan: the paper's grids, the settings of every run, and the selection rule."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rgjax import config as settings
from rgjax.config import VARIANTS, ablations
from rgjax.errors import UserError
from rgjax.storage import manifest
from rgjax.storage.files import write_json
from rgjax.sweep.data import without_repeats
from rgjax.sweep.plan import Seeds, of_methods, read_variants
from rgjax.sweep.scheduler import SweepState, with_recorded_repeats
from tests.support.studies import ALL_SEEDS, FILE, plan_of, variant_of

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE)
    return str(path)


def grids(name):
    variants = read_variants(str(CONFIGS / name), {}, common={}, quick=False)
    return {(variant.study, variant.label): variant.grid for variant in variants}


def values(grid, field):
    return sorted({point[field] for point in grid})


@pytest.mark.parametrize(
    ("name", "thresholds", "rules"),
    [
        ("cifar100_binary.py", [300, 400, 500, 600, 700, 800], ["target"]),
        ("ham10000_binary.py", [250, 300, 350, 400, 450, 500], ["target"]),
        ("images.py", [50, 100, 200, 400, 800, 1600], ["ratio", "target"]),
        ("ham10000.py", [200, 300, 400, 500, 600, 700], ["ratio", "target"]),
    ],
)
def test_grids_are_those_of_the_papers_appendix(name, thresholds, rules):
    by_label = {label: grid for (_, label), grid in grids(name).items()}
    assert values(by_label["focal"], "loss.gamma") == [0.5, 1, 1.5, 2, 2.5, 3]
    assert values(by_label["la"], "loss.tau") == [0, 0.5, 1, 1.5, 2, 2.5]
    assert values(by_label["ldam"], "loss.max_m") == [0, 0.5, 1]
    assert values(by_label["ldam"], "loss.s") == [10, 20, 30]
    assert len(by_label["ldam"]) == 9
    assert by_label.pop("rg original classes", ({},)) == ({},)  # these groups have no threshold
    ratio = {"regroup.rule": "ratio", "regroup.threshold": 0}  # in HAM10000, a threshold of 200 is the same
    for label in (label for label in by_label if label.startswith("rg")):
        grid = [point for point in by_label[label] if point != ratio]
        assert values(grid, "regroup.threshold") == thresholds
        assert values(grid, "regroup.rule") == rules
        assert len(grid) == len(thresholds) * len(rules)
        assert len(by_label[label]) == len(grid) + (name != "ham10000.py")
    assert {label.split()[0] for label in by_label} == set(settings.METHODS)


@pytest.mark.parametrize("name", ["phrasebank.py", "text.py"])
def test_sweeps_of_text_skip_methods_for_images(name):
    labels = {label for _, label in grids(name)}
    assert labels == set(settings.METHODS) - {"dsmt"}


def test_paper_has_three_tables_and_the_ablations():
    by_study = grids("paper.py")
    assert {study for study, _ in by_study} == {"cifar100_binary", "ham10000_binary", "ham10000", "phrasebank"}
    assert {label for study, label in by_study if study == "phrasebank"} == set(
        ["ce", "wce", "focal", "ldam", "la", "ros", "rg", "rg_wce"]
    )
    assert {" ".join((point["method"], point["variant"])) for point in ablations(settings.RATIO)} <= {
        label for _, label in by_study
    }
    assert {point["variant"] for point in ablations(settings.RATIO)} == VARIANTS.keys()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=[] if path.name == "digits.py" else pytest.mark.long)
        for path in sorted(CONFIGS.glob("*.py"))
    ],
)
def test_every_point_has_a_workdir_of_its_own(name, tmp_path):
    plan = plan_of(str(CONFIGS / name), tmp_path)
    runs = plan.all_runs()
    assert len({run.workdir for run in runs}) == len(runs) == plan.total
    for run in runs:
        settings.validate(run.config)


def test_stages_have_their_seeds(file, tmp_path):
    plan = plan_of(file, tmp_path)
    assert plan.tuning_runs(variant_of(plan, "ce"), ALL_SEEDS) == []
    focal = variant_of(plan, "focal")
    assert [(run.config.seed, run.config.data.seed) for run in plan.tuning_runs(focal, ALL_SEEDS)] == [(1000, 1000)] * 4
    reported = plan.reported_runs(focal, ALL_SEEDS, focal.grid[1])
    assert [(run.config.seed, run.config.data.seed) for run in reported] == [(0, 0), (1, 1), (2, 2)]
    assert {run.config.loss.gamma for run in reported} == {1.0}
    (fixed,) = Seeds(1000, range(2), fixed_split=True).selections
    assert (fixed.tuning, fixed.reported) == ({"seed": 1000}, [{"seed": 0}, {"seed": 1}])


def test_folds_are_tuned_and_reported_one_by_one(file, tmp_path):
    plan = replace(plan_of(file, tmp_path), seeds=Seeds(1000, range(2), fixed_split=False, folds=5))
    assert {variant.label: plan.count(variant) for variant in plan.variants} == {
        "ce": (0, 10), "focal": (40, 10), "rg": (20, 10), "rg random groups": (20, 10),
    }  # fmt: skip
    runs = plan.all_runs()
    assert len({run.workdir for run in runs}) == len(runs) == plan.total
    for run in runs:
        settings.validate(run.config)


def test_overridden_fields_are_not_searched_and_variants_keep_theirs(file, tmp_path):
    plan = plan_of(file, tmp_path, {"loss.gamma": 3.0, "regroup.clustering": "kmeans", "train.epochs": 7})
    assert plan.count(variant_of(plan, "focal")) == (0, 3)
    for run in plan.all_runs():
        assert run.config.train.epochs == 7
        assert run.config.loss.gamma == 3.0
        assert (run.config.regroup.clustering == "random") == (run.variant.name == "random groups")


def test_common_grid_is_crossed_with_every_grid(file, tmp_path):
    plan = plan_of(file, tmp_path, common={"train.lr": [0.1, 0.2], "train.weight_decay": [0.0, 1e-4]})
    assert {variant.label: len(variant.grid) for variant in plan.variants} == {
        "ce": 4, "focal": 16, "rg": 8, "rg random groups": 8,
    }  # fmt: skip
    for variant in plan.variants:
        pairs = Counter((point["train.lr"], point["train.weight_decay"]) for point in variant.grid)
        assert set(pairs.values()) == {len(variant.grid) // 4}


def test_numpy_scalars_become_numbers(file, tmp_path):
    Path(file).write_text("import numpy as np\n" + FILE.replace("(100, 200)", "np.arange(100, 300, 100)"))
    variant = variant_of(plan_of(file, tmp_path), "rg")
    assert json.dumps(variant.grid) == '[{"regroup.threshold": 100}, {"regroup.threshold": 200}]'


def test_quick_keeps_two_points_of_each_grid(file, tmp_path):
    plan = plan_of(file, tmp_path, quick=True)
    assert {variant.label: len(variant.grid) for variant in plan.variants} == {
        "ce": 1, "focal": 2, "rg": 2, "rg random groups": 2,
    }  # fmt: skip


def test_methods_select_variants_and_unknown_ones_are_refused(file, tmp_path):
    variants = plan_of(file, tmp_path).variants
    assert of_methods(variants, []) == list(variants)
    assert [variant.label for variant in of_methods(variants, ["rg"])] == ["rg", "rg random groups"]
    with pytest.raises(UserError, match="did you mean 'rg'"):
        of_methods(variants, ["rgg"])


def test_best_point_has_the_highest_validation_score_and_is_the_first_of_equals(file, tmp_path):
    plan = plan_of(file, tmp_path)
    focal = variant_of(plan, "focal")
    tuning = plan.tuning_runs(focal, ALL_SEEDS)
    assert plan.best(focal, tuning) is None
    # Test scores are reversed: a selection by them would differ.
    for run, ba in zip(tuning[:3], (0.6, 0.8, 0.8), strict=True):
        write_json(run.workdir / "result.json", {"val": {"ba": ba, "macro_ap": -ba}, "test": {"ba": 1 - ba}})
        manifest.write(run.workdir, ["result.json"])
    assert plan.best(focal, tuning) == {"loss.gamma": 1.0}
    assert replace(plan, select="macro_ap").best(focal, tuning) == {"loss.gamma": 0.5}


def test_selected_point_has_the_better_aggregation_unless_it_is_set(file, tmp_path):
    plan = plan_of(file, tmp_path)
    rg = variant_of(plan, "rg")
    tuning = plan.tuning_runs(rg, ALL_SEEDS)
    for run, (of_max, of_sum) in zip(tuning, ((0.7, 0.6), (0.5, 0.9)), strict=True):
        by_aggregation = {"max": {"ba": of_max}, "sum": {"ba": of_sum}}
        write_json(run.workdir / "result.json", {"val": by_aggregation["max"], "val_by_aggregation": by_aggregation})
        manifest.write(run.workdir, ["result.json"])
    assert plan.best(rg, tuning) == {"regroup.threshold": 200, "regroup.aggregate": "sum"}
    fixed = replace(plan, overrides={"regroup.aggregate": "max"})
    assert fixed.best(rg, tuning) == {"regroup.threshold": 100}


def test_points_of_equal_groups_are_one_experiment(tmp_path):
    path = tmp_path / "study.py"
    text = FILE.replace("for threshold in (100, 200)", "for threshold in (50, 100, 150, 1000, 2000)")
    text = text.replace('{"train.epochs": 3}', '{"train.epochs": 3, "data.positive": "8"}')
    path.write_text(text.replace('"regroup.threshold"', '"regroup.rule": "target", "regroup.threshold"'))
    plan = plan_of(str(path), tmp_path)
    shorter = without_repeats(plan)
    assert variant_of(shorter, "focal") == variant_of(plan, "focal")
    for label in ("rg", "rg random groups"):
        rg = variant_of(shorter, label)
        # There are 111 eights among the training examples, so that no group is smaller, and 1,032 others.
        assert [point["regroup.threshold"] for point in rg.searched] == [50, 150, 1000]
        assert [run.config.regroup.threshold for run in shorter.tuning_runs(rg, ALL_SEEDS)] == [50, 150, 1000]
    assert shorter.total == plan.total - 2 * 2
    SweepState(shorter, {}, command="")
    assert with_recorded_repeats(plan) == shorter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0.5, 1.0, 1.5", "-1.0, 1.0, 1.5"), "config.loss.gamma=-1.0: out of range"),
        (('"loss.gamma"', '"loss.gama"'), "unknown field in sweep"),
        (('"method": "focal"', '"method": "fokal"'), "did you mean 'focal'"),
        (('"variant": "random groups"', '"variant": "randm groups"'), "did you mean 'random groups'"),
        (("(100, 200)", "('many', 200)"), "regroup.threshold='many'"),
        (("def sweep", "def sweeep"), "has no sweep()"),
        (("yield {", "yield {{"), "cannot be read"),
        (("for threshold", "1 / 0\n    for threshold"), "ZeroDivisionError"),
        (('"loss.gamma": gamma', '"seed": 3'), "a sweep sets it"),
        (('"loss.gamma": gamma', '"data.fold": 3'), "use --seeds or --folds"),
        (('{"train.epochs": 3}', '{"train.epochs": 3 / 0}'), "get_config() of"),
    ],
)
def test_mistake_in_the_config_file_is_a_user_error(change, message, tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE.replace(*change))
    with pytest.raises(UserError) as error:
        for run in plan_of(str(path), tmp_path).all_runs():
            _ = run.config
    assert message in str(error.value)
