"""Runs of two processes on loopback, and of other numbers of devices than they began with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config=configs/digits.py:rg", "--config.data.image_size=16", "--config.model.name=resnet10",
    "--config.model.width=8", "--config.train.batch_size=64", "--config.regroup.n_init=1",
    "--config.train.steps_per_call=2",
]  # fmt: skip


def start(workdir, *arguments, processes=2):
    """The processes of a run, which say what they have to say into WORKDIR-I.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = []
    for i in range(processes):
        command = [sys.executable, "-m", "rgjax.main", *SMALL, *arguments, f"--workdir={workdir}"]
        if processes > 1:
            command += ["--distributed", f"--coordinator=127.0.0.1:{port}"]
            command += [f"--processes={processes}", f"--process={i}"]
        with open(f"{workdir}-{i}.log", "w") as log:
            found.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return found


def ended(processes, timeout=300):
    for process in processes:
        process.wait(timeout)
    return [process.returncode for process in processes]


def said(workdir, i):
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
    raise AssertionError(f"no checkpoint: {said(workdir, 0)}")


@pytest.mark.long
@pytest.mark.parametrize("clustering", ["kmeans", pytest.param("balanced", marks=pytest.mark.soak)])
def test_two_processes_make_one_run(clustering, tmp_path):
    arguments = ["--config.train.steps=4", "--config.train.checkpoint_steps=2"]
    arguments += [f"--config.regroup.clustering={clustering}"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert ended(start(alone, *arguments, processes=1)) == [0], said(alone, 0)
    assert ended(start(both, *arguments)) == [0, 0], said(both, 0)
    assert "balanced accuracy" in said(both, 0)
    assert "balanced accuracy" not in said(both, 1)
    one, two = predictions(alone), predictions(both)
    assert one.keys() == two.keys()
    # They sum gradients and batch statistics in another order: rounding in float32, which four steps at this learning
    # rate let grow to a thousandth.
    np.testing.assert_allclose(one["test_logits"], two["test_logits"], rtol=1e-2, atol=1e-3)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("alone", "both")]
    assert names[0] == names[1]


@pytest.mark.soak
def test_a_pair_that_loses_one_ends_soon_and_goes_on_to_the_same_bits(tmp_path):
    arguments = ["--config.train.steps=400", "--config.train.checkpoint_steps=10"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert ended(start(whole, *arguments)) == [0, 0], said(whole, 0)
    pair = start(cut, *arguments)
    wait_for_checkpoint(cut, pair, 20)
    pair[1].send_signal(signal.SIGKILL)
    lost = time.monotonic()
    first, _ = ended(pair, timeout=90)
    assert first not in (0, None)
    assert time.monotonic() - lost < 60
    assert "another process of this run has ended" in said(cut, 0) or "another task died" in said(cut, 0)
    pair = start(cut, *arguments)
    wait_for_checkpoint(cut, pair, 60)
    pair[1].send_signal(signal.SIGTERM)  # to one of them
    assert ended(pair) == [143, 143], said(cut, 0)
    assert ended(start(cut, *arguments)) == [0, 0], said(cut, 0)
    assert (whole / "predictions.npz").read_bytes() == (cut / "predictions.npz").read_bytes()


ELASTIC = """
import json, shutil, sys
from pathlib import Path
import jax
from rgjax import experiment, preemption, trainer
from rgjax.config import method_config
from rgjax.errors import Preempted

folder = Path(sys.argv[1])
config = method_config("rg", json.loads(sys.argv[2]))
make_mesh, asked = trainer.make_mesh, console.sigterm_requested

def run(name, devices):
    trainer.make_mesh = lambda all, **how: make_mesh(all[:devices], **how)
    experiment.run(config, folder / name)

run("undisturbed", 2)
answers = iter([False] * 2)
console.sigterm_requested = lambda: next(answers, True)
try:
    run("2", 2)
except Preempted:
    console.sigterm_requested = asked
for devices in (1, 4):
    shutil.copytree(folder / "2", folder / str(devices))
    run(str(devices), devices)
run("2", 2)
"""


@pytest.mark.soak
def test_a_run_goes_on_with_fewer_and_with_more_devices(tmp_path):
    settings = {
        "data.positive": "8", "data.image_size": 16, "encoder.name": "projection", "model.name": "resnet10",
        "model.width": 8, "train.steps": 16, "train.batch_size": 64, "train.steps_per_call": 2, "trackers": "",
    }  # fmt: skip
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    process = subprocess.run(
        [sys.executable, "-c", ELASTIC, str(tmp_path), json.dumps(settings)], cwd=tmp_path,
        env=os.environ | flags, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    expected = predictions(tmp_path / "undisturbed")
    assert (tmp_path / "2" / "predictions.npz").read_bytes() == (
        tmp_path / "undisturbed" / "predictions.npz"
    ).read_bytes()
    for devices in (1, 4):
        found = predictions(tmp_path / str(devices))
        # Sums over the batch are in another order for most of the steps: 2e-6 was seen.
        np.testing.assert_allclose(found["test_logits"], expected["test_logits"], rtol=1e-3, atol=1e-4)
