"""Launchers train the runs of a sweep: on this machine, by Ray, or by Slurm.

A launcher takes jobs, each a list of workdirs to train as one program, and returns a handle for each. Results are
recorded only in the workdirs, so any launcher can resume a sweep that another one started.
"""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias

from rgjax.edges import signals
from rgjax.errors import UserError
from rgjax.sharding import gpu_memory
from rgjax.sweep.worker import train_runs

_WORKER_BYTES = 4 * 2**30  # memory for a worker on a CPU; if runs on large images need more, lower --workers
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # launch/cpu.sh sets the same value for single runs; a test compares them
Job: TypeAlias = list[str]  # workdirs


class Handle(Protocol):
    """A submitted job."""

    def done(self) -> bool: ...

    def exception(self) -> BaseException | None:
        """The error that ended the job early, e.g. because its process died, or None."""
        ...


class Launcher(Protocol):
    """Trains jobs."""

    def submit(self, jobs: Sequence[Job]) -> Sequence[Handle]: ...

    def close(self) -> None:
        """Stop all jobs that are not done."""
        ...


class Slot(NamedTuple):
    """Environment variables that select a worker's device, and its CPU cores."""

    environment: dict[str, str]
    cores: frozenset[int] = frozenset()


class Local:
    """Worker processes on this machine, one per slot."""

    def __init__(self, logs: Path, slots: Sequence[Slot]):
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [Worker(logs / f"worker-{i}.log", slot) for i, slot in enumerate(slots)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(len(self._workers))

    def submit(self, jobs: Sequence[Job]) -> list[Future]:
        return [self._threads.submit(self._work, job) for job in jobs]

    def _work(self, job: Job) -> None:
        worker = self._idle.get()
        try:
            worker.work(job)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()


class Worker:
    """A process that trains one job after another; a new one replaces a dead one."""

    def __init__(self, log: Path, slot: Slot):
        self._log, self._slot = log, slot
        self._process: subprocess.Popen[str] | None = None

    def work(self, job: Job) -> None:
        """Train a job. Raises RuntimeError if the process dies."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps([job, os.getcwd()]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            code = process.wait()
            killed = " (killed)" if code == -9 else ""
            raise RuntimeError(f"the worker process ended with code {code}{killed}; see {self._log}")

    def _start(self) -> subprocess.Popen[str]:
        with open(self._log, "a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rgjax.sweep.worker"],
                env={**os.environ, **self._slot.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches only the sweep, which then stops its workers
            )
        if self._slot.cores:
            os.sched_setaffinity(process.pid, self._slot.cores)  # its threads, which start later, inherit it
        return process

    def terminate(self) -> None:
        """Tell the process to save its run and exit."""
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait for the process to exit; kill it after the grace period."""
        if self._process is not None:
            try:
                self._process.wait(signals.GRACE + 1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def local_slots(workers: int | None) -> list[Slot]:
    """Slots for `workers` processes; by default one per device or CPU core.

    They are spread evenly over the devices. Devices are counted by their files in /dev, because JAX would claim them.
    Raises UserError for more workers than TPU chips.
    """
    gpus, tpus = _gpus(), _tpu_chips()
    if gpus:
        count = workers or len(gpus)
        share = -(-count // len(gpus))
        return [Slot({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], **gpu_memory(share)}) for i in range(count)]
    if tpus:
        count = workers or tpus
        if count > tpus:
            raise UserError(f"--workers={count}: a TPU chip serves one process, and there are {tpus}; lower --workers")
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Slot({"TPU_VISIBLE_CHIPS": str(i), **alone}) for i in range(count)]
    return _cpu_slots(workers)


def _cpu_slots(workers: int | None) -> list[Slot]:
    """Slots with the same number of cores each, by default one.

    All have the same number because rounding depends on it. The default is one because tracing uses a single core: two
    workers with one core each finish small runs in half the time of one worker with two (digits: 152 s, not 317 s).
    """
    huge_pages = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", HUGE_PAGES)}
    if not hasattr(os, "sched_getaffinity"):
        return [Slot(huge_pages)] * (workers or 1)
    cores = sorted(os.sched_getaffinity(0))
    fit_in_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _WORKER_BYTES
    count = workers or max(1, min(len(cores), fit_in_memory))
    share = max(1, len(cores) // count)
    return [Slot(huge_pages, frozenset(cores[i * share % len(cores) :][:share])) for i in range(count)]


def _gpus() -> list[str]:
    """The GPUs that JAX would use on this machine, by CUDA's names.

    Of CUDA_VISIBLE_DEVICES, CUDA reads the words before the first that names no GPU: "" and "-1" hide them all.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        return []
    count = _device_files("/dev", r"nvidia\d+")
    if (allowed := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return [str(i) for i in range(count)]

    def names_gpu(word: str) -> bool:
        return word.startswith(("GPU-", "MIG-")) or (word.isdecimal() and (int(word) < count or not count))

    return list(takewhile(names_gpu, map(str.strip, allowed.split(","))))


def _tpu_chips() -> int:
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not find_spec("libtpu"):
        return 0
    return _device_files("/dev", r"accel\d+") or _device_files("/dev/vfio", r"\d+")


def _device_files(folder: str, pattern: str) -> int:
    try:
        return sum(bool(re.fullmatch(pattern, name)) for name in os.listdir(folder))
    except OSError:
        return 0


class Ray:
    """Tasks of a Ray cluster.

    The cluster is that of RAY_ADDRESS, or one that runs on this machine, or else a new one. `resources` are those of
    each task, e.g. num_gpus=1 or TPU=4; by default a GPU or a TPU chip if the cluster has any. If a worker or node
    dies, Ray restarts its task on another one.
    """

    def __init__(self, resources: Mapping[str, float | str]):
        # Under `uv run`, Ray would otherwise create a new environment on every node, without our extras.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray
        except ImportError as error:
            raise UserError("--launcher=ray: Ray is not installed; run: uv sync --extra ray") from error
        self._ray = ray
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with _as_user_error("--launcher=ray"):
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                if "RAY_ADDRESS" in os.environ:
                    raise
                ray.init(**quiet)
            available = ray.cluster_resources()
            custom: dict[str, Any] = dict(resources) or {
                name: 1 for kind, name in (("GPU", "num_gpus"), ("TPU", "TPU")) if kind in available
            }
            builtin = {name: custom.pop(name) for name in ("num_cpus", "num_gpus", "memory") if name in custom}
            # A process releases its device only when it exits: one task per process.
            per_process: dict[str, Any] = {"max_calls": 1} if "num_gpus" in builtin or "TPU" in custom else {}
            self._task = ray.remote(max_retries=3, resources=custom, **builtin, **per_process)(train_runs)

    def submit(self, jobs: Sequence[Job]) -> list[Future]:
        return [self._task.remote(job, os.getcwd()).future() for job in jobs]

    def close(self) -> None:
        self._ray.shutdown()


class Slurm:
    """Slurm job arrays, by submitit.

    `resources` are submitit's parameters, e.g. slurm_partition=gpu, gpus_per_node=1, timeout_min=240; cluster=local
    runs all jobs as processes on this machine. At most `limit` jobs of an array run at a time.
    """

    def __init__(self, folder: Path, resources: Mapping[str, float | str], limit: int | None):
        try:
            import submitit
        except ImportError as error:
            raise UserError("--launcher=slurm: submitit is not installed; run: uv sync --extra slurm") from error
        parameters: dict[str, Any] = {"name": "rgjax", "timeout_min": 24 * 60, "cluster": "slurm", **resources}
        cluster = parameters.pop("cluster")
        if limit is not None:
            parameters["slurm_array_parallelism"] = limit
        self._jobs: list[Any] = []
        with _as_user_error("--launcher=slurm"):
            self._executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
            self._executor.update_parameters(**parameters)

    def submit(self, jobs: Sequence[Job]) -> Sequence[Handle]:
        with _as_user_error("--launcher=slurm"):
            submitted = self._executor.map_array(train_runs, jobs, [os.getcwd()] * len(jobs))
        self._jobs += submitted
        return submitted

    def close(self) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel()


@contextlib.contextmanager
def _as_user_error(flag: str) -> Iterator[None]:
    """Turn an exception of Ray or submitit into a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{flag}: {str(error) or type(error).__name__}; check --resources and the cluster") from error


def parse_resources(pairs: Sequence[str]) -> dict[str, float | str]:
    """Parse `NAME=VALUE` words; values that are numbers become numbers."""
    resources: dict[str, float | str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise UserError(f"--resources={pair}: not NAME=VALUE; write e.g. --resources=num_gpus=1")
        number = re.fullmatch(r"0|[1-9]\d*|\d*\.\d+", value)  # but 0012 may be the name of an account
        resources[name] = (float if "." in value else int)(value) if number else value
    return resources


LAUNCHERS: dict[str, Callable[..., Launcher]] = {
    "local": lambda root, workers, resources: Local(root / "logs", local_slots(workers)),
    "ray": lambda root, workers, resources: Ray(resources),
    "slurm": lambda root, workers, resources: Slurm(root / "logs" / "submitit", resources, workers),
}
