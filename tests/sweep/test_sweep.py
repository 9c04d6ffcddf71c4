"""The sweep command: killed and resumed, refused, and run by Ray and by submitit's local executor."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--config=configs/digits.py",
    "--quick",
    "--seeds=2",
    "--methods=la",
    "--config.data.image_size=16",
    "--config.model.name=resnet10",
    "--config.model.width=8",
    "--config.train.steps=100",
    "--config.train.checkpoint_steps=10",
]
RUNS = 4  # two to tune, two to report
QUICK_TO_COMPILE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # the scheduling is tested, not the numbers


def environment(**more):
    return os.environ | QUICK_TO_COMPILE | {"PYTHONPATH": str(ROOT), **more}


def sweep(*arguments, timeout=400, **more):
    return subprocess.run(
        [sys.executable, "-m", "rgjax.sweep", *SMALL, *arguments],
        cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def results(root):
    """The result of each run, without its times."""
    by_run = {}
    for path in root.glob("digits/*/result.json"):
        by_run[path.parent.name] = json.loads(path.read_text())
        del by_run[path.parent.name]["timing"]
    return by_run


def in_training(root):
    """The number of runs with a checkpoint and no result yet."""
    started = {path.parents[1] for path in root.glob("digits/*/checkpoints/[0-9]*")}
    return sum(not (workdir / "result.json").exists() for workdir in started)


def wait_until(condition, process, timeout=300):
    deadline = time.monotonic() + timeout
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.soak
def test_sweep_killed_twice_gives_the_same_results_and_then_does_nothing(tmp_path):
    whole = sweep(f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    assert f"{RUNS} of {RUNS} runs done" in whole.stdout
    cut = tmp_path / "cut"
    for done in (0, 1):
        process = subprocess.Popen(
            [sys.executable, "-m", "rgjax.sweep", *SMALL, f"--workdir={cut}"],
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda done=done: len(results(cut)) >= done and in_training(cut), process)
        process.kill()
        process.wait()
    assert 0 < len(results(cut)) < RUNS
    again = sweep(f"--workdir={cut}")
    assert again.returncode == 0, again.stderr
    assert results(cut) == results(tmp_path / "whole")
    assert len(results(cut)) == RUNS

    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*") if path.name != "sweep.json"}
    third = sweep(f"--workdir={cut}")
    assert third.returncode == 0, third.stderr
    assert {path: path.stat().st_mtime_ns for path in cut.rglob("*") if path.name != "sweep.json"} == before

    # The recorded command of a run prints its result.
    run = json.loads(next(cut.glob("digits/la-*/run.json")).read_text())
    command = [sys.executable, *shlex.split(run["command"])[3:]]
    printed = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100)
    assert printed.returncode == 0, printed.stderr
    assert "balanced accuracy" in printed.stdout

    other = sweep(f"--workdir={cut}", "--config.train.lr=0.5")
    assert other.returncode == 2
    assert "use another --workdir" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr=fast"], "--lr=fast: not numbers"),
        pytest.param(["--methods=rgg"], "did you mean 'rg'", marks=pytest.mark.long),
        pytest.param(["--config.data.seed=1"], "each seed has its own split", marks=pytest.mark.long),
        pytest.param(["--repeats=2"], "--repeats=2: how often folds are drawn; add --folds=5", marks=pytest.mark.long),
        pytest.param(["--folds=3"], "--seeds=2: with --folds, --repeats sets", marks=pytest.mark.long),
        pytest.param(["--tuning-seed=1"], "--tuning-seed=1: also a reported seed", marks=pytest.mark.long),
        pytest.param(
            ["--config.data.name=ham10000", "--config.data.manual_dir=nowhere"], "nowhere", marks=pytest.mark.long
        ),
        pytest.param(["--workdir=gs://bucket/sweep"], "mount the bucket", marks=pytest.mark.long),
    ],
)
def test_mistake_on_the_command_line_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    process = sweep(f"--workdir={tmp_path / 'sweep'}", *arguments)
    assert process.returncode == 2, process.stderr
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


@pytest.mark.soak
def test_dry_run_prints_the_cost_and_leaves_no_file(tmp_path):
    process = sweep(f"--workdir={tmp_path / 'sweep'}", "--dry-run")
    assert process.returncode == 0, process.stderr
    runs, seconds, hours, _, disk = process.stdout.splitlines()[-2].split()[1:]
    assert int(runs) == RUNS
    assert float(hours) == pytest.approx(RUNS * float(seconds) / 3600, rel=0.1)
    assert float(disk) > 0
    assert not (tmp_path / "sweep").exists()


@pytest.mark.soak
def test_ray_restarts_runs_of_a_lost_node(tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: uv sync --extra ray")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        process = subprocess.Popen(
            [sys.executable, "-m", "rgjax.sweep", *SMALL, "--launcher=ray", "--retries=0", f"--workdir={tmp_path}"],
            cwd=ROOT, env=environment(RAY_ADDRESS=cluster.address), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: in_training(tmp_path) == 2, process)  # each node trains a run
        assert len(results(tmp_path)) < RUNS
        cluster.remove_node(second, allow_graceful=False)
        output, _ = process.communicate(timeout=400)
    finally:
        cluster.shutdown()
    assert process.returncode == 0
    assert f"{RUNS} of {RUNS} runs done" in output
    assert len(results(tmp_path)) == RUNS
    starts = [path.read_text().count("started on") for path in tmp_path.glob("digits/*/log.txt")]
    assert max(starts) == 2  # Ray itself restarted the run: the sweep has no retries


@pytest.mark.soak
def test_submitit_runs_a_sweep_with_its_local_executor(tmp_path):
    pytest.importorskip("submitit", reason="needs submitit: uv sync --extra slurm")
    process = sweep(f"--workdir={tmp_path}", "--launcher=slurm", "--resources=cluster=local,timeout_min=10")
    assert process.returncode == 0, process.stderr
    assert len(results(tmp_path)) == RUNS
