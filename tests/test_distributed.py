"""Runs of two processes on loopback, and resumed with another number of devices."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rgjax import console, experiment
from rgjax.config import method_config
from rgjax.edges.signals import Preempted
from rgjax.sharding import make_mesh

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config=configs/digits.py:rg", "--config.data.image_size=16", "--config.model.name=resnet10",
    "--config.model.width=8", "--config.train.batch_size=64", "--config.regroup.n_init=1",
    "--config.train.steps_per_call=2",
]  # fmt: skip


def start(workdir, *arguments, processes=2):
    """Start the processes of a run, which log to WORKDIR-I.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = []
    for i in range(processes):
        command = [sys.executable, "-m", "rgjax.main", *SMALL, *arguments, f"--workdir={workdir}"]
        if processes > 1:
            command += ["--distributed", f"--coordinator=127.0.0.1:{port}"]
            command += [f"--processes={processes}", f"--process={i}"]
        with open(f"{workdir}-{i}.log", "w") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return started


def exit_codes(processes, timeout=300):
    for process in processes:
        process.wait(timeout)
    return [process.returncode for process in processes]


def log_of(workdir, i):
    return Path(f"{workdir}-{i}.log").read_text()


def predictions(workdir):
    with np.load(workdir / "predictions.npz") as file:
        return dict(file)


def wait_for_checkpoint(workdir, processes, step):
    deadline = time.monotonic() + 300
    while all(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if any(path.name.isdigit() and int(path.name) >= step for path in workdir.glob("checkpoints/*")):
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint: {log_of(workdir, 0)}")


@pytest.mark.long
@pytest.mark.parametrize("clustering", ["kmeans", pytest.param("balanced", marks=pytest.mark.soak)])
def test_two_processes_are_one_run(clustering, tmp_path):
    arguments = ["--config.train.steps=4", "--config.train.checkpoint_steps=2"]
    arguments += [f"--config.regroup.clustering={clustering}"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert exit_codes(start(alone, *arguments, processes=1)) == [0], log_of(alone, 0)
    assert exit_codes(start(both, *arguments)) == [0, 0], log_of(both, 0)
    assert "balanced accuracy" in log_of(both, 0)
    assert "balanced accuracy" not in log_of(both, 1)
    one, two = predictions(alone), predictions(both)
    assert one.keys() == two.keys()
    # Gradients and batch statistics are summed in another order: rounding in float32, which four steps at this learning
    # rate amplify to a thousandth.
    np.testing.assert_allclose(one["test_logits"], two["test_logits"], rtol=1e-2, atol=1e-3)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("alone", "both")]
    assert names[0] == names[1]


@pytest.mark.soak
def test_a_pair_that_loses_a_process_ends_soon_and_resumes_to_the_same_bits(tmp_path):
    arguments = ["--config.train.steps=400", "--config.train.checkpoint_steps=10"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert exit_codes(start(whole, *arguments)) == [0, 0], log_of(whole, 0)
    pair = start(cut, *arguments)
    wait_for_checkpoint(cut, pair, 20)
    pair[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    first, _ = exit_codes(pair, timeout=90)
    assert first not in (0, None)
    assert time.monotonic() - killed < 60
    assert "another process of this run has ended" in log_of(cut, 0) or "another task died" in log_of(cut, 0)
    pair = start(cut, *arguments)
    wait_for_checkpoint(cut, pair, 60)
    pair[1].send_signal(signal.SIGTERM)  # to one of them
    assert exit_codes(pair) == [143, 143], log_of(cut, 0)
    assert exit_codes(start(cut, *arguments)) == [0, 0], log_of(cut, 0)
    assert (whole / "predictions.npz").read_bytes() == (cut / "predictions.npz").read_bytes()


@pytest.mark.soak
def test_a_run_resumes_with_fewer_and_with_more_devices(eight_devices, monkeypatch, tmp_path):
    config = method_config("rg", {
        "data.positive": "8", "data.image_size": 16, "encoder.name": "projection", "model.name": "resnet10",
        "model.width": 8, "train.steps": 16, "train.batch_size": 64, "train.steps_per_call": 2, "trackers": "",
    })  # fmt: skip

    def run(name, devices):
        monkeypatch.setattr(experiment, "make_mesh", lambda _, **sizes: make_mesh(eight_devices[:devices], **sizes))
        experiment.run(config, tmp_path / name)

    run("undisturbed", 2)
    with monkeypatch.context() as patch:
        answers = iter([False] * 2)
        patch.setattr(console, "sigterm_requested", lambda: next(answers, True))
        with pytest.raises(Preempted):
            run("2", 2)
    for devices in (1, 4):
        shutil.copytree(tmp_path / "2", tmp_path / str(devices))
        run(str(devices), devices)
    run("2", 2)
    expected = predictions(tmp_path / "undisturbed")
    np.testing.assert_array_equal(predictions(tmp_path / "2")["test_logits"], expected["test_logits"])
    for devices in (1, 4):
        # Batches are summed in another order for most of the steps: 2e-6 was seen.
        logits = predictions(tmp_path / str(devices))["test_logits"]
        np.testing.assert_allclose(logits, expected["test_logits"], rtol=1e-3, atol=1e-4)
