"""Where runs are trained: places on this machine, workers that die, and words that become resources."""

import os

import pytest

from rgjax.errors import UserError
from rgjax.sweep import launchers
from rgjax.sweep.launchers import Local, local_places, numbers


def places(monkeypatch, workers, gpus=0, tpus=0):
    files = {r"nvidia\d+": gpus, r"accel\d+": tpus}
    monkeypatch.setattr(launchers, "_device_files", lambda folder, pattern: files.get(pattern, 0))
    monkeypatch.setattr(launchers, "find_spec", lambda name: name in ("jax_cuda12_plugin", "libtpu") or None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return local_places(workers)


def test_gpus_are_shared_evenly(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [place.environment for place in places(monkeypatch, None, gpus=2)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    shared = [place.environment for place in places(monkeypatch, 4, gpus=2)]
    assert [own["CUDA_VISIBLE_DEVICES"] for own in shared] == ["0", "1", "0", "1"]
    assert {own["XLA_PYTHON_CLIENT_MEM_FRACTION"] for own in shared} == {"0.45"}


def test_the_callers_choice_of_devices_holds(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(monkeypatch, None, gpus=4)] == ["2", "3"]
    files = launchers._gpus()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert (files, launchers._gpus(), launchers._tpu_chips()) == (["2", "3"], [], 0)


def test_a_tpu_chip_has_one_worker(monkeypatch):
    assert [place.environment["TPU_VISIBLE_CHIPS"] for place in places(monkeypatch, None, tpus=4)] == list("0123")
    with pytest.raises(UserError, match="there are 4"):
        places(monkeypatch, 5, tpus=4)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_on_a_cpu_have_equally_many_cores(workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    found = [place.cores for place in places(monkeypatch, workers)]
    assert len(found) == workers
    assert len({len(cores) for cores in found}) == 1
    assert all(cores <= {0, 1, 2, 3} for cores in found)
    if workers <= 4:
        assert sum(map(len, found)) == len(frozenset().union(*found))  # none shared


def test_a_worker_that_dies_is_replaced(tmp_path):
    launcher = Local(tmp_path / "logs", [launchers.Place({})])
    try:
        (tmp_path / "file").touch()  # no folder to work in: more than a worker can bear
        gone, broken = launcher.submit([[str(tmp_path / "file")], [str(tmp_path / "empty")]])
        assert "its process ended with code 1" in str(gone.exception())
        assert broken.exception() is None  # no config.json: an error that the worker survives
        assert "config.json" in (tmp_path / "empty" / "failure.json").read_text()
    finally:
        launcher.close()
    assert "FileExistsError" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_resources_are_numbers_or_words():
    assert numbers(["num_gpus=0.5", "timeout_min=60", "slurm_account=0012"]) == {
        "num_gpus": 0.5,
        "timeout_min": 60,
        "slurm_account": "0012",
    }
    with pytest.raises(UserError, match="NAME=VALUE"):
        numbers(["gpu"])
