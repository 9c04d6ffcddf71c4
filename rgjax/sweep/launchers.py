"""Where the runs of a sweep are trained: on this machine's devices, by Ray, or by Slurm.

A launcher takes jobs, each a list of workdirs to be trained as one program, and gives a handle for each. Whether a
run has succeeded stands in its workdir, so that any launcher can go on with what another has begun.
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
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias

from rgjax import console
from rgjax.errors import UserError
from rgjax.sweep.worker import work

_WORKER_BYTES = 4 * 2**30  # set aside for a worker on a CPU; runs on large images take more, and --workers fewer
Job: TypeAlias = list[str]  # workdirs


class Handle(Protocol):
    def done(self) -> bool: ...

    def exception(self) -> BaseException | None:
        """Why a job that is done was cut short, if it was."""
        ...


class Launcher(Protocol):
    def submit(self, jobs: Sequence[Job]) -> Sequence[Handle]: ...

    def close(self) -> None:
        """Give up what is not finished."""
        ...


class Place(NamedTuple):
    """What a worker process has for itself: variables of its environment that name its device, and cores."""

    environment: dict[str, str]
    cores: frozenset[int] = frozenset()


class Local:
    """Worker processes on this machine, each bound to a device or a share of one."""

    def __init__(self, logs: Path, places: Sequence[Place]):
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [Worker(logs / f"worker-{i}.log", place) for i, place in enumerate(places)]
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
        for stop in (Worker.terminate, Worker.stop):
            for worker in self._workers:
                stop(worker)


class Worker:
    """A process that works off one job after another, started anew where it has died."""

    def __init__(self, log: Path, place: Place):
        self._log, self._place = log, place
        self._process: subprocess.Popen[str] | None = None

    def work(self, job: Job) -> None:
        """Raises RuntimeError where the process dies over it."""
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
            raise RuntimeError(f"its process ended with code {code}{' (killed)' if code == -9 else ''}: {self._log}")

    def _start(self) -> subprocess.Popen[str]:
        with open(self._log, "a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rgjax.sweep.worker"],
                env={**os.environ, **self._place.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # an interruption at the terminal is the sweep's to pass on
            )
        if self._place.cores:
            os.sched_setaffinity(process.pid, self._place.cores)  # long before it makes its threads
        return process

    def terminate(self) -> None:
        """Ask it to save what it has in hand and to end."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """Wait until it has ended, or end it."""
        if self._process is not None:
            try:
                self._process.wait(console.GRACE + 1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def local_places(workers: int | None) -> list[Place]:
    """Places for `workers` processes, as evenly over the devices as may be; unset: one a device, on a CPU one a core.

    Devices are told by their files, for asking jax would take them. Raises UserError for more workers than TPU chips.
    """
    gpus, tpus = _gpus(), _tpu_chips()
    if gpus:
        count = workers or len(gpus)
        share = -(-count // len(gpus))
        memory = {} if share == 1 else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / share:.2f}"}
        return [Place({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], **memory}) for i in range(count)]
    if tpus:
        count = workers or tpus
        if count > tpus:
            raise UserError(f"--workers={count}: a TPU chip belongs to one process, and there are {tpus}")
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Place({"TPU_VISIBLE_CHIPS": str(i), **alone}) for i in range(count)]
    return _places_on_cpu(workers)


def _places_on_cpu(workers: int | None) -> list[Place]:
    """Workers with a core each get through twice as many small runs as one with two, whose tracing leaves one idle
    (digits, two cores: 152 s against 317). All have equally many cores, for results depend on that by rounding."""
    huge_pages = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")}  # as launch/cpu.sh does
    if not hasattr(os, "sched_getaffinity"):
        return [Place(huge_pages)] * (workers or 1)
    cores = sorted(os.sched_getaffinity(0))
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _WORKER_BYTES
    count = workers or max(1, min(len(cores), room))
    share = max(1, len(cores) // count)
    return [Place(huge_pages, frozenset(cores[i * share % len(cores) :][:share])) for i in range(count)]


def _gpus() -> list[str]:
    """The GPUs that JAX would use here, as CUDA names them."""
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        return []
    if allowed := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return allowed.split(",")
    return [str(i) for i in range(_device_files("/dev", r"nvidia\d+"))]


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
    """Tasks of a Ray cluster: the one that `RAY_ADDRESS` or this machine knows, else a new one of this machine.

    `resources` are what each task takes, e.g. num_gpus=1 or TPU=4; unset: a GPU or a TPU chip if the cluster has any.
    Ray starts a task again, elsewhere, when its worker or node dies.
    """

    def __init__(self, resources: Mapping[str, float | str]):
        # Else Ray makes an environment of its own on every node when it is started by `uv run`, without our extras.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray
        except ImportError as error:
            raise UserError("--launcher=ray needs Ray: uv sync --extra ray") from error
        self._ray = ray
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with _told("--launcher=ray"):
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                if "RAY_ADDRESS" in os.environ:
                    raise
                ray.init(**quiet)
            has = ray.cluster_resources()
            wanted: dict[str, Any] = dict(resources) or {
                name: 1 for kind, name in (("GPU", "num_gpus"), ("TPU", "TPU")) if kind in has
            }
            named = {name: wanted.pop(name) for name in ("num_cpus", "num_gpus", "memory") if name in wanted}
            # A process that holds a device must end with its task, to give it back.
            ends: dict[str, Any] = {"max_calls": 1} if "num_gpus" in named or "TPU" in wanted else {}
            self._task = ray.remote(max_retries=3, resources=wanted, **named, **ends)(work)

    def submit(self, jobs: Sequence[Job]) -> list[Future]:
        return [self._task.remote(job, os.getcwd()).future() for job in jobs]

    def close(self) -> None:
        self._ray.shutdown()


class Slurm:
    """Job arrays by submitit. `resources` are its parameters, e.g. slurm_partition=gpu, gpus_per_node=1,
    timeout_min=240; cluster=local runs all jobs as processes of this machine."""

    def __init__(self, folder: Path, resources: Mapping[str, float | str], limit: int | None):
        try:
            import submitit
        except ImportError as error:
            raise UserError("--launcher=slurm needs submitit: uv sync --extra slurm") from error
        parameters: dict[str, Any] = {"name": "rgjax", "timeout_min": 24 * 60, "cluster": "slurm", **resources}
        cluster = parameters.pop("cluster")
        if limit is not None:
            parameters["slurm_array_parallelism"] = limit
        self._jobs: list[Any] = []
        with _told("--launcher=slurm"):
            self._executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
            self._executor.update_parameters(**parameters)

    def submit(self, jobs: Sequence[Job]) -> Sequence[Handle]:
        with _told("--launcher=slurm"):
            submitted = self._executor.map_array(work, jobs, [os.getcwd()] * len(jobs))
        self._jobs += submitted
        return submitted

    def close(self) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What a library says of the resources that it is asked for is the user's to mend."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what}: {str(error) or type(error).__name__}") from error


def numbers(pairs: Sequence[str]) -> dict[str, float | str]:
    """`NAME=VALUE` words as a dict, numbers as numbers."""
    found: dict[str, float | str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise UserError(f"--resources={pair}: give NAME=VALUE, e.g. num_gpus=1")
        number = re.fullmatch(r"0|[1-9]\d*|\d*\.\d+", value)  # 0012 is a name, of an account
        found[name] = (float if "." in value else int)(value) if number else value
    return found


LAUNCHERS: dict[str, Callable[..., Launcher]] = {
    "local": lambda root, workers, resources: Local(root / "logs", local_places(workers)),
    "ray": lambda root, workers, resources: Ray(resources),
    "slurm": lambda root, workers, resources: Slurm(root / "logs" / "submitit", resources, workers),
}
