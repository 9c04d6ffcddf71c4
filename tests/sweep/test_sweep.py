"""The sweep as a user meets it: killed, started again, refused, and on Ray and Slurm's stand-in."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
QUICK_TO_COMPILE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # a sweep's course, not its numbers, is tested


def environment(**more):
    return os.environ | QUICK_TO_COMPILE | {"PYTHONPATH": str(ROOT), **more}


def sweep(*arguments, timeout=400, **more):
    return subprocess.run(
        [sys.executable, "-m", "rgjax.sweep", *SMALL, *arguments],
        cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def results(root):
    """What each run found, but for its times."""
    found = {}
    for path in root.glob("digits/*/result.json"):
        found[path.parent.name] = json.loads(path.read_text())
        del found[path.parent.name]["timing"]
    return found


def under_way(root):
    """How many runs have a checkpoint and no result yet."""
    begun = {path.parents[1] for path in root.glob("digits/*/checkpoints/[0-9]*")}
    return sum(not (workdir / "result.json").exists() for workdir in begun)


def wait_until(condition, process, timeout=300):
    deadline = time.monotonic() + timeout
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.soak
def test_killed_twice_it_ends_as_an_undisturbed_one_and_then_does_nothing(tmp_path):
    whole = sweep(f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    assert f"{RUNS} of {RUNS} runs done" in whole.stdout
    cut = tmp_path / "cut"
    for done in (0, 1):
        process = subprocess.Popen(
            [sys.executable, "-m", "rgjax.sweep", *SMALL, f"--workdir={cut}"],
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda done=done: len(results(cut)) >= done and under_way(cut), process)
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

    # The command that stands behind each number is that run, and prints it.
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
        (["--methods=rgg"], "did you mean 'rg'"),
        (["--lr=fast"], "--lr=fast: give numbers"),
        (["--config.data.name=ham10000", "--config.data.manual_dir=nowhere"], "nowhere"),
        (["--workdir=gs://bucket/sweep"], "mount the object store"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path):
    process = sweep(f"--workdir={tmp_path / 'sweep'}", *arguments)
    assert process.returncode == 2, process.stderr
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


@pytest.mark.soak
def test_a_dry_run_tells_the_cost_and_leaves_nothing(tmp_path):
    process = sweep(f"--workdir={tmp_path / 'sweep'}", "--dry-run")
    assert process.returncode == 0, process.stderr
    runs, seconds, hours, _, disk = process.stdout.splitlines()[-2].split()[1:]
    assert int(runs) == RUNS
    assert float(hours) == pytest.approx(RUNS * float(seconds) / 3600, rel=0.1)
    assert float(disk) > 0
    assert not (tmp_path / "sweep").exists()


@pytest.mark.soak
def test_ray_loses_a_node_and_the_sweep_no_run(tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: uv sync --extra ray")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        process = subprocess.Popen(
            [sys.executable, "-m", "rgjax.sweep", *SMALL, "--launcher=ray", "--retries=0", f"--workdir={tmp_path}"],
            cwd=ROOT, env=environment(RAY_ADDRESS=cluster.address), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: under_way(tmp_path) == 2, process)  # each node has a run in hand
        assert len(results(tmp_path)) < RUNS
        cluster.remove_node(second, allow_graceful=False)
        output, _ = process.communicate(timeout=400)
    finally:
        cluster.shutdown()
    assert process.returncode == 0
    assert f"{RUNS} of {RUNS} runs done" in output
    assert len(results(tmp_path)) == RUNS
    begun = [path.read_text().count("begun on") for path in tmp_path.glob("digits/*/log.txt")]
    assert max(begun) == 2  # Ray itself has started the lost one again: the sweep had no retries


@pytest.mark.soak
def test_submitits_local_executor_runs_a_sweep_too(tmp_path):
    pytest.importorskip("submitit", reason="needs submitit: uv sync --extra slurm")
    process = sweep(f"--workdir={tmp_path}", "--launcher=slurm", "--resources=cluster=local,timeout_min=10")
    assert process.returncode == 0, process.stderr
    assert len(results(tmp_path)) == RUNS
