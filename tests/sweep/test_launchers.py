"""Launchers: slots on this machine, workers that die, and the resources of a run."""

import os
from pathlib import Path

import pytest

from rgjax.errors import UserError
from rgjax.sweep import launchers
from rgjax.sweep.launchers import HUGE_PAGES, Local, Slot, local_slots, parse_resources


def slots(monkeypatch, workers, gpus=0, tpus=0):
    files = {r"nvidia\d+": gpus, r"accel\d+": tpus}
    monkeypatch.setattr(launchers, "_device_files", lambda folder, pattern: files.get(pattern, 0))
    monkeypatch.setattr(launchers, "find_spec", lambda name: name in ("jax_cuda12_plugin", "libtpu") or None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return local_slots(workers)


def gpus_of(slots):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots]


def test_gpus_and_their_memory_are_shared_evenly(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert gpus_of(slots(monkeypatch, None, gpus=2)) == ["0", "1"]
    shared = slots(monkeypatch, 4, gpus=2)
    assert gpus_of(shared) == ["0", "1", "0", "1"]
    assert {slot.environment["XLA_CLIENT_MEM_FRACTION"] for slot in shared} == {"0.46"}
    # The user's share is divided under the name that the user chose: JAX refuses both at once.
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert [slot.environment for slot in slots(monkeypatch, 2, gpus=1)] == [
        {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.25"}
    ] * 2
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "half")
    with pytest.raises(UserError, match="XLA_PYTHON_CLIENT_MEM_FRACTION=half"):
        slots(monkeypatch, 2, gpus=1)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("2,3", ["2", "3"]),
        (" 1 , 0", ["1", "0"]),
        ("GPU-8f2e", ["GPU-8f2e"]),
        ("0,-1,1", ["0"]),  # CUDA reads up to the first word that names no GPU
        ("1,4,0", ["1"]),
        ("", []),
        ("-1", []),
        ("none", []),
    ],
)
def test_gpus_are_those_that_cuda_sees(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots(monkeypatch, 2, gpus=4)] == [
        gpus[i % len(gpus)] if gpus else None for i in range(2)
    ]


def test_the_cpu_has_workers_where_jax_is_told_so(monkeypatch):
    slots(monkeypatch, 2, gpus=4)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert all("CUDA_VISIBLE_DEVICES" not in slot.environment for slot in local_slots(2))


def test_tpu_chips_have_one_worker_each(monkeypatch):
    assert [slot.environment["TPU_VISIBLE_CHIPS"] for slot in slots(monkeypatch, None, tpus=4)] == list("0123")
    with pytest.raises(UserError, match="there are 4"):
        slots(monkeypatch, 5, tpus=4)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_on_a_cpu_have_equally_many_cores(workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    per_worker = [slot.cores for slot in slots(monkeypatch, workers)]
    assert len(per_worker) == workers
    assert len({len(cores) for cores in per_worker}) == 1
    assert all(cores <= {0, 1, 2, 3} for cores in per_worker)
    if workers <= 4:
        assert sum(map(len, per_worker)) == len(frozenset().union(*per_worker))  # none shared


def test_launch_script_sets_the_same_huge_pages():
    script = Path(__file__).parents[2] / "launch" / "cpu.sh"
    assert f"GLIBC_TUNABLES={HUGE_PAGES} exec" in script.read_text()


@pytest.mark.long
def test_worker_that_dies_is_replaced(tmp_path):
    launcher = Local(tmp_path / "logs", [Slot({})])
    try:
        (tmp_path / "file").touch()  # a file in place of a workdir: the worker dies of it
        dead, failed = launcher.submit([[str(tmp_path / "file")], [str(tmp_path / "empty")]])
        assert "the worker process ended with code" in str(dead.exception())
        assert failed.exception() is None  # no config.json: the worker survives this error
        assert "config.json" in (tmp_path / "empty" / "failure.json").read_text()
    finally:
        launcher.close()
    assert str(tmp_path / "file") in (tmp_path / "logs" / "worker-0.log").read_text()


def test_resources_are_numbers_or_words():
    assert parse_resources(["num_gpus=0.5", "timeout_min=60", "slurm_account=0012"]) == {
        "num_gpus": 0.5,
        "timeout_min": 60,
        "slurm_account": "0012",
    }
    with pytest.raises(UserError, match="NAME=VALUE"):
        parse_resources(["gpu"])
