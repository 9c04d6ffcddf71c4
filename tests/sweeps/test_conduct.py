"""The course of a sweep, with a launcher that trains nothing."""

import json
from concurrent.futures import Future

import pytest
from study import FILE, group_of, plan_of
from tqdm import tqdm

from rgjax.errors import UserError
from rgjax.storage import write_json
from rgjax.sweeps import conduct
from rgjax.sweeps.conduct import Course, Record, as_jobs
from rgjax.sweeps.worker import record_failure


class Launcher:
    """Ends every job at once: with a score that falls with gamma, or with the error that `fails` finds for a run."""

    def __init__(self, fails=lambda config: None):
        self.fails, self.trained, self.closed = fails, [], False

    def submit(self, jobs):
        return [self._end(job) for job in jobs]

    def _end(self, job):
        handle = Future()
        handle.set_result(None)
        for workdir in map(conduct.Path, job):
            config = json.loads((workdir / "config.json").read_text())
            self.trained.append(workdir)
            (workdir / "checkpoints").mkdir(exist_ok=True)
            if error := self.fails(config):
                record_failure(workdir, error)
            else:
                score = {"ba": 1 / config["loss"]["gamma"], "macro_ap": 0.5}
                write_json(workdir / "result.json", {"val": score, "test": score})
        return handle

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(conduct, "_POLL", 0.0)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(FILE)
    return plan_of(str(path), tmp_path / "sweep")


def carry_out(plan, launcher, *, retries=1, keep=lambda run: run.stage == 2, asked=None):
    record = Record(plan, asked or {}, command="")
    course = Course(plan, record, retries=retries, population=1, keep=keep, bar=tqdm(disable=True))
    return course.carry_out(lambda: launcher), record


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

    def none():
        raise AssertionError("a launcher for nothing")

    course = Course(plan, Record(plan, {}, ""), 1, 1, lambda run: True, tqdm(disable=True))
    assert course.carry_out(none).done == len(plan.all_runs())
    more = conduct.Plan(
        plan.root, plan.groups, plan.given, plan.seeds.__class__(1000, range(4), fixed_split=False), "ba"
    )
    launcher = Launcher()
    carry_out(more, launcher)
    assert len(launcher.trained) == len(plan.groups)


def test_a_failing_run_is_tried_again_and_then_listed_while_the_others_go_on(plan):
    launcher = Launcher(fails=lambda config: "no luck" if config["loss"]["gamma"] == 0.5 else None)
    outcome, record = carry_out(plan, launcher, retries=2)
    assert list(outcome.failed.values()) == ["no luck"]
    (lost,) = outcome.failed
    assert launcher.trained.count(lost.absolute()) == 3
    assert json.loads((lost / "failure.json").read_text())["attempts"] == 3
    assert record.chosen(group_of(plan, "focal")) == {"loss.gamma": 1.0}
    assert outcome.done == len(plan.all_runs()) - 1


def test_a_choice_once_made_stays_when_a_failed_run_comes_right(plan):
    carry_out(plan, Launcher(fails=lambda config: "no luck" if config["loss"]["gamma"] == 0.5 else None))
    launcher = Launcher()
    outcome, record = carry_out(plan, launcher)
    assert len(launcher.trained) == 1
    assert outcome.failed == {}
    assert record.chosen(group_of(plan, "focal")) == {"loss.gamma": 1.0}


def test_a_method_without_any_result_costs_the_others_nothing(plan):
    outcome, record = carry_out(plan, Launcher(fails=lambda c: "no luck" if c["method"] == "focal" else None))
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
    with pytest.raises(UserError, match=r"with --config.train.lr=None, not 0.1"):
        Record(plan, {"--quick": False, "--config.train.lr": 0.1}, "")


def test_runs_that_differ_in_traced_settings_share_a_job(plan):
    jobs = as_jobs(plan.all_runs(), 3)
    assert sorted(len(job) for job in jobs if job[0].group.label == "focal") == [1, 1, 1, 1, 3]
    for job in jobs:
        assert len({(run.config.data.seed, run.group.label) for run in job}) == 1
    assert all(len(job) == 1 for job in as_jobs(plan.all_runs(), 1))
