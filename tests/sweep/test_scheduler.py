"""Sweep scheduler, with a launcher that trains nothing."""

import json
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from tqdm import tqdm

from rgjax.errors import UserError
from rgjax.storage import manifest
from rgjax.storage.files import write_json
from rgjax.sweep import scheduler
from rgjax.sweep.plan import Seeds
from rgjax.sweep.scheduler import HEADS_PER_JOB, Scheduler, SchedulerOptions, SweepState, as_jobs
from rgjax.sweep.worker import write_failure
from tests.support.studies import ALL_SEEDS, FILE, plan_of, variant_of

OPTIONS = SchedulerOptions(retries=1, population=1, accept_failures=False, keeps=lambda run: run.stage == 2)


class Launcher:
    """Ends every job at once: with a score that falls with gamma, or with the error that `fails` returns for a run."""

    def __init__(self, fails=lambda config: None, *, lasting=False):
        self.fails, self.lasting, self.trained, self.closed = fails, lasting, [], False

    def submit(self, jobs):
        return [self.end(job) for job in jobs]

    def end(self, job):
        handle = Future()
        handle.set_result(None)
        for workdir in map(Path, job):
            config = json.loads((workdir / "config.json").read_text())
            self.trained.append(workdir)
            (workdir / "checkpoints").mkdir(exist_ok=True)
            if error := self.fails(config):
                write_failure(workdir, error, lasting=self.lasting)
            else:
                score = {"ba": 1 / config["loss"]["gamma"], "macro_ap": 0.5}
                write_json(workdir / "result.json", {"val": score, "test": score})
                manifest.write(workdir, ["result.json"])
        return handle

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(scheduler, "_POLL", 0.0)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE)
    return plan_of(str(path), tmp_path / "sweep")


def run(plan, launcher, *, request=None, **options):
    state = SweepState(plan, request or {}, command="")
    outcome = Scheduler(plan, state, replace(OPTIONS, **options), tqdm(disable=True)).run(lambda: launcher)
    return outcome, state


def one_point_fails(config):
    return "bad luck" if config["loss"]["gamma"] == 0.5 else None


def test_best_point_of_each_method_is_trained_on_all_seeds(plan):
    launcher = Launcher()
    outcome, state = run(plan, launcher)
    assert (outcome.done, outcome.failed) == (plan.total, {})
    assert len(launcher.trained) == len(set(launcher.trained)) == outcome.done
    assert launcher.closed
    focal = variant_of(plan, "focal")
    assert state.selected(focal, ALL_SEEDS) == {"loss.gamma": 0.5}
    (runs,) = (runs for runs in outcome.variants if runs.variant == focal)
    assert runs.point == {"loss.gamma": 0.5}
    assert [run.workdir for run in runs.reported] == [
        run.workdir for run in plan.reported_runs(focal, ALL_SEEDS, {"loss.gamma": 0.5})
    ]
    assert all(run.done and (run.workdir / "checkpoints").exists() for run in runs.reported)
    assert not any((run.workdir / "checkpoints").exists() for run in runs.tuning)


def test_second_call_starts_nothing_and_another_seed_starts_its_runs_alone(plan):
    run(plan, Launcher())
    outcome, _ = run(plan, None)  # would raise if a job were started
    assert outcome.done == plan.total
    more_seeds = replace(plan, seeds=replace(plan.seeds, reported=range(4)))
    launcher = Launcher()
    run(more_seeds, launcher)
    assert len(launcher.trained) == len(plan.variants)


def test_each_fold_selects_by_its_validation_alone(plan):
    """Fold 1 of each repeat scores best with the largest gamma, the others with the smallest."""

    class Launching(Launcher):
        def end(self, job):
            handle = super().end(job)
            for workdir in map(Path, job):
                config, result = (json.loads((workdir / f"{name}.json").read_text()) for name in ("config", "result"))
                if config["data"]["fold"] == 1:
                    result["val"]["ba"] = config["loss"]["gamma"]
                write_json(workdir / "result.json", result)
                manifest.write(workdir, ["result.json"])
            return handle

    plan = replace(plan, seeds=Seeds(1000, range(2), fixed_split=False, folds=3))
    outcome, _ = run(plan, Launching())
    assert outcome.done == plan.total == len(outcome.variants) * 1 + 6 * (4 + 2 + 2)
    by_fold = {runs.selection.name: runs for runs in outcome.variants if runs.variant.method == "focal"}
    assert list(by_fold) == [f"seed {seed}, fold {fold}" for seed in range(2) for fold in range(3)]
    for name, runs in by_fold.items():
        assert runs.point == {"loss.gamma": 2.0 if name.endswith("1") else 0.5}
        (reported,) = runs.reported
        split = [
            (each.config.data.seed, each.config.data.folds, each.config.data.fold) for each in (reported, *runs.tuning)
        ]
        assert len(set(split)) == 1 and f"seed {split[0][0]}, fold {split[0][2]}" == name
        assert reported.config.seed == split[0][0]
        assert {each.config.seed for each in runs.tuning} == {1000}

    assert run(plan, None)[0].done == plan.total
    launcher = Launching()
    run(replace(plan, seeds=replace(plan.seeds, reported=range(3))), launcher)
    assert len(launcher.trained) == plan.total // 2


def test_failing_run_is_retried_then_listed_while_the_others_go_on(plan):
    launcher = Launcher(one_point_fails)
    outcome, state = run(plan, launcher, retries=2)
    assert list(outcome.failed.values()) == ["bad luck"]
    (failed,) = outcome.failed
    assert launcher.trained.count(failed.absolute()) == 3
    assert (
        state.selected(variant_of(plan, "focal"), ALL_SEEDS) is None
    )  # the failed run may succeed later, and be the best
    assert outcome.undecided == ["focal"]
    assert outcome.done == plan.total - 1 - 3

    launcher = Launcher()
    outcome, state = run(plan, launcher)
    assert (outcome.failed, outcome.undecided) == ({}, [])
    assert state.selected(variant_of(plan, "focal"), ALL_SEEDS) == {"loss.gamma": 0.5}
    assert len(launcher.trained) == 1 + 3


def test_point_that_fails_by_its_settings_is_tried_once_and_excluded(plan):
    launcher = Launcher(one_point_fails, lasting=True)
    outcome, state = run(plan, launcher)
    assert len(launcher.trained) == len(set(launcher.trained))
    assert state.selected(variant_of(plan, "focal"), ALL_SEEDS) == {"loss.gamma": 1.0}
    assert list(outcome.failed.values()) == ["bad luck"]


def test_accepted_failures_are_excluded_and_the_selection_stays(plan):
    _, state = run(plan, Launcher(one_point_fails), accept_failures=True)
    assert state.selected(variant_of(plan, "focal"), ALL_SEEDS) == {"loss.gamma": 1.0}
    launcher = Launcher()
    _, state = run(plan, launcher)
    assert len(launcher.trained) == 1
    assert state.selected(variant_of(plan, "focal"), ALL_SEEDS) == {"loss.gamma": 1.0}


def test_job_that_reached_its_time_limit_resumes_without_a_retry(plan):
    class Slow(Launcher):
        def end(self, job):
            (folder,) = map(Path, job)
            steps = len(list(folder.glob("checkpoints/*")))
            if steps < 2:
                (folder / "checkpoints" / str(steps + 1)).mkdir(parents=True)
                handle = Future()
                handle.set_exception(TimeoutError("time limit"))
                return handle
            return super().end(job)

    outcome, _ = run(plan, Slow(), retries=0)
    assert outcome.done == plan.total


def test_sweeps_that_share_a_folder_keep_each_others_selections(plan):
    """Both open the folder before either selects."""
    focal, rg = variant_of(plan, "focal"), variant_of(plan, "rg")
    first, second = (SweepState(replace(plan, variants=(variant,)), {}, "") for variant in (focal, rg))
    assert first.select(focal, ALL_SEEDS, {"loss.gamma": 2.0}) == {"loss.gamma": 2.0}
    second.select(rg, ALL_SEEDS, {"regroup.threshold": 100})
    assert second.select(focal, ALL_SEEDS, {"loss.gamma": 0.5}) == {"loss.gamma": 2.0}
    for state in (first, second, SweepState(plan, {}, "")):
        assert state.selected(focal, ALL_SEEDS) == {"loss.gamma": 2.0}
        assert state.selected(rg, ALL_SEEDS) == {"regroup.threshold": 100}


@pytest.mark.parametrize("change", [('"train.epochs": 3', '"train.epochs": 4'), ("(0.5, 1.0,", "(0.5,")])
def test_config_file_that_has_changed_since_is_refused(change, plan):
    run(plan, Launcher())
    path = Path(plan.variants[0].file)
    path.write_text(FILE.replace(*change))
    with pytest.raises(UserError, match="has changed since"):
        SweepState(plan_of(str(path), plan.root), {}, "")


def test_corrupted_result_is_no_result_and_corrupted_state_is_refused(plan):
    run(plan, Launcher())
    tuning = plan.tuning_runs(variant_of(plan, "focal"), ALL_SEEDS)[0]
    path = tuning.workdir / "result.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert not tuning.done
    for content in ("[]", "[" * 100_000):
        (plan.root / "sweep.json").write_text(content)
        with pytest.raises(UserError, match=r"sweep.json is corrupted .*; remove it"):
            SweepState(plan, {}, "")


def test_method_without_any_result_does_not_stop_the_others(plan):
    outcome, state = run(plan, Launcher(lambda config: "bad luck" if config["method"] == "focal" else None))
    assert state.selected(variant_of(plan, "focal"), ALL_SEEDS) is None
    assert len(outcome.failed) == 4
    assert outcome.done == plan.total - 4 - 3


def test_job_that_dies_leaves_its_error(plan):
    class Dying(Launcher):
        def end(self, job):
            handle = Future()
            handle.set_exception(RuntimeError("the worker process ended with code -9"))
            return handle

    outcome, _ = run(plan, Dying(), retries=0)
    assert outcome.done == 0
    assert set(outcome.failed.values()) == {"the worker process ended with code -9"}


def test_sweep_with_other_flags_is_refused_once_runs_exist(plan):
    SweepState(plan, {"--quick": True, "--config.train.lr": 0.1}, "")  # no run yet: the flags may change
    run(plan, Launcher(), request={"--quick": False})
    with pytest.raises(UserError, match="holds a sweep with --quick=False, not True; use another --workdir"):
        SweepState(plan, {"--quick": True}, "")
    with pytest.raises(UserError, match=r"with --config.train.lr=unset, not 0.1"):
        SweepState(plan, {"--quick": False, "--config.train.lr": 0.1}, "")


def test_runs_that_differ_in_traced_settings_share_a_job(plan):
    jobs = as_jobs(plan.all_runs(), 3)
    assert sorted(len(job) for job in jobs if job[0].variant.label == "focal") == [1, 1, 1, 1, 3]
    for job in jobs:
        assert len({(run.config.data.seed, run.variant.label) for run in job}) == 1
    for population in (1, None):
        assert all(len(job) == 1 for job in as_jobs(plan.all_runs(), population))


def test_heads_of_all_seeds_and_groups_share_a_job(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE)
    runs = plan_of(str(path), tmp_path / "sweep", {"model.name": "mlp"}).all_runs()
    jobs = as_jobs(runs, None)
    assert [len(job) for job in jobs] == [
        *[HEADS_PER_JOB] * (len(jobs) - 2),
        *sorted(map(len, jobs[-2:]), reverse=True),
    ]
    assert {run.workdir for job in jobs for run in job} == {run.workdir for run in runs}
    for job in jobs:
        assert len({run.config.loss.name for run in job}) == 1
    assert max(len({(run.variant.label, run.config.seed) for run in job}) for job in jobs) > 5
