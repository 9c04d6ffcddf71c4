"""The course of a sweep, with a launcher that trains nothing."""

import json
from concurrent.futures import Future
from dataclasses import replace

import pytest
from study import FILE, group_of, plan_of
from tqdm import tqdm

from rgjax.errors import UserError
from rgjax.storage import manifest
from rgjax.storage.files import write_json
from rgjax.sweep import scheduler
from rgjax.sweep.scheduler import Course, Record, as_jobs
from rgjax.sweep.worker import record_failure


class Launcher:
    """Ends every job at once: with a score that falls with gamma, or with the error that `fails` finds for a run."""

    def __init__(self, fails=lambda config: None, *, lasting=False):
        self.fails, self.lasting, self.trained, self.closed = fails, lasting, [], False

    def submit(self, jobs):
        return [self._end(job) for job in jobs]

    def _end(self, job):
        handle = Future()
        handle.set_result(None)
        for workdir in map(scheduler.Path, job):
            config = json.loads((workdir / "config.json").read_text())
            self.trained.append(workdir)
            (workdir / "checkpoints").mkdir(exist_ok=True)
            if error := self.fails(config):
                record_failure(workdir, error, lasting=self.lasting)
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


def carry_out(plan, launcher, *, asked=None, **options):
    record = Record(plan, asked or {}, command="")
    options = {"retries": 1, "population": 1, "keep": lambda run: run.stage == 2, "accept_failures": False} | options
    course = Course(plan, record, **options, bar=tqdm(disable=True))
    return course.carry_out(lambda: launcher), record


def one_setting_fails(config):
    return "no luck" if config["loss"]["gamma"] == 0.5 else None


def test_each_method_is_tuned_and_its_best_setting_trained_on_all_seeds(plan):
    launcher = Launcher()
    outcome, record = carry_out(plan, launcher)
    assert (outcome.done, outcome.failed) == (len(plan.all_runs()), {})
    assert len(launcher.trained) == len(set(launcher.trained)) == outcome.done
    assert launcher.closed
    focal = group_of(plan, "focal")
    assert record.chosen(focal) == {"loss.gamma": 0.5}
    assert all(run.done for run in plan.reported_runs(focal, {"loss.gamma": 0.5}))
    kept = [run for run in plan.tuning_runs(focal) if (run.workdir / "checkpoints").exists()]
    assert not kept
    assert (plan.reported_runs(focal, {"loss.gamma": 0.5})[0].workdir / "checkpoints").exists()


def test_a_second_call_starts_nothing_and_more_seeds_start_those_alone(plan):
    carry_out(plan, Launcher())
    outcome, _ = carry_out(plan, None)  # to start a job would fail
    assert outcome.done == len(plan.all_runs())
    more = replace(plan, seeds=replace(plan.seeds, reported=range(4)))
    launcher = Launcher()
    carry_out(more, launcher)
    assert len(launcher.trained) == len(plan.groups)


def test_a_failing_run_is_tried_again_and_then_listed_while_the_others_go_on(plan):
    launcher = Launcher(one_setting_fails)
    outcome, record = carry_out(plan, launcher, retries=2)
    assert list(outcome.failed.values()) == ["no luck"]
    (lost,) = outcome.failed
    assert launcher.trained.count(lost.absolute()) == 3
    assert record.chosen(group_of(plan, "focal")) is None  # the failed one may come right, and be the best
    assert outcome.undecided == ["focal"]
    assert outcome.done == len(plan.all_runs()) - 1 - 3

    launcher = Launcher()
    outcome, record = carry_out(plan, launcher)
    assert (outcome.failed, outcome.undecided) == ({}, [])
    assert record.chosen(group_of(plan, "focal")) == {"loss.gamma": 0.5}
    assert len(launcher.trained) == 1 + 3


def test_a_setting_that_is_to_blame_is_tried_once_and_left_out(plan):
    launcher = Launcher(one_setting_fails, lasting=True)
    outcome, record = carry_out(plan, launcher)
    assert len(launcher.trained) == len(set(launcher.trained))
    assert record.chosen(group_of(plan, "focal")) == {"loss.gamma": 1.0}
    assert list(outcome.failed.values()) == ["no luck"]


def test_failures_can_be_accepted_and_the_choice_then_stays(plan):
    _, record = carry_out(plan, Launcher(one_setting_fails), accept_failures=True)
    assert record.chosen(group_of(plan, "focal")) == {"loss.gamma": 1.0}
    launcher = Launcher()
    _, record = carry_out(plan, launcher)
    assert len(launcher.trained) == 1
    assert record.chosen(group_of(plan, "focal")) == {"loss.gamma": 1.0}


def test_a_job_whose_time_was_up_goes_on(plan):
    class Slow(Launcher):
        def _end(self, job):
            (folder,) = map(scheduler.Path, job)
            steps = len(list(folder.glob("checkpoints/*")))
            if steps < 5:
                (folder / "checkpoints" / str(steps + 1)).mkdir(parents=True)
                handle = Future()
                handle.set_exception(TimeoutError("time is up"))
                return handle
            return super()._end(job)

    outcome, _ = carry_out(plan, Slow(), retries=0)
    assert outcome.done == len(plan.all_runs())


def test_sweeps_that_share_a_folder_keep_each_others_choices(plan):
    """Both have opened the folder before either chooses."""
    focal, rg = group_of(plan, "focal"), group_of(plan, "rg")
    ours, theirs = (Record(replace(plan, groups=(group,)), {}, "") for group in (focal, rg))
    ours.choose(focal, {"loss.gamma": 2.0})
    theirs.choose(rg, {"regroup.threshold": 100})
    theirs.choose(focal, {"loss.gamma": 0.5})
    for record in (ours, theirs, Record(plan, {}, "")):
        assert record.chosen(focal) == {"loss.gamma": 2.0}
        assert record.chosen(rg) == {"regroup.threshold": 100}


@pytest.mark.parametrize("change", [('"train.epochs": 3', '"train.epochs": 4'), ("(0.5, 1.0,", "(0.5,")])
def test_a_file_that_has_changed_since_is_refused(change, plan):
    carry_out(plan, Launcher())
    path = scheduler.Path(plan.groups[0].file)
    path.write_text(FILE.replace(*change))
    with pytest.raises(UserError, match="have changed since"):
        Record(plan_of(str(path), plan.root), {}, "")


def test_what_is_damaged_is_named(plan):
    carry_out(plan, Launcher())
    run = plan.tuning_runs(group_of(plan, "focal"))[0]
    path = run.workdir / "result.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert not run.done  # it is concluded again
    for content in ("[]", "[" * 100_000):
        (plan.root / "sweep.json").write_text(content)
        with pytest.raises(UserError, match=r"sweep.json is damaged: remove it"):
            Record(plan, {}, "")


def test_a_method_without_any_result_costs_the_others_nothing(plan):
    outcome, record = carry_out(plan, Launcher(lambda config: "no luck" if config["method"] == "focal" else None))
    assert record.chosen(group_of(plan, "focal")) is None
    assert len(outcome.failed) == 4
    assert outcome.done == len(plan.all_runs()) - 4 - 3


def test_a_job_that_was_cut_short_leaves_its_reason(plan):
    class Dying(Launcher):
        def _end(self, job):
            handle = Future()
            handle.set_exception(RuntimeError("its process ended with code -9"))
            return handle

    outcome, _ = carry_out(plan, Dying(), retries=0)
    assert outcome.done == 0
    assert set(outcome.failed.values()) == {"its process ended with code -9"}


def test_a_sweep_of_other_settings_is_refused(plan):
    Record(plan, {"--quick": True, "--config.train.lr": 0.1}, "")  # nothing has begun: it may still be mended
    carry_out(plan, Launcher(), asked={"--quick": False})
    with pytest.raises(UserError, match="holds a sweep with --quick=False, not True"):
        Record(plan, {"--quick": True}, "")
    with pytest.raises(UserError, match=r"without --config.train.lr, not 0.1"):
        Record(plan, {"--quick": False, "--config.train.lr": 0.1}, "")


def test_runs_that_differ_in_traced_settings_share_a_job(plan):
    jobs = as_jobs(plan.all_runs(), 3)
    assert sorted(len(job) for job in jobs if job[0].group.label == "focal") == [1, 1, 1, 1, 3]
    for job in jobs:
        assert len({(run.config.data.seed, run.group.label) for run in job}) == 1
    assert all(len(job) == 1 for job in as_jobs(plan.all_runs(), 1))
