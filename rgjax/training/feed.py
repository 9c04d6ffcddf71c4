"""Where the inputs of a training lie: all on the devices, or with the host, which hands over the rows that come next.

Rows that are streamed are few enough to lie on the devices as a small data set of their own, with the training rows'
places in it: the programs, and so the results, are those of a data set that is there as a whole.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rgjax.sharding import AXIS, put, put_sharded, replicated, sharded_spec
from rgjax.training.loop import TrainSchedule
from rgjax.training.program import TrainData, draw_epoch

WINDOW_BYTES = 2**27  # of a device, which holds two windows, and three at an evaluation: the next one arrives early
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
_BLOCK_BYTES, _BLOCKS_AHEAD = 2**23, 16


class HostData(NamedTuple):
    """Inputs as the host keeps them, an array [M, ...] or several, mapped from a file perhaps; and the map `store` of
    any rows of them to the form that the devices keep."""

    inputs: Any
    store: Callable[[Any], Any] = lambda rows: rows

    def read(self, rows: np.ndarray | slice) -> Any:
        return self.store(jax.tree.map(lambda x: x[rows], self.inputs))

    def outline(self, count: int) -> Any:
        """The shapes of `count` rows as the devices keep them."""
        row = self.read(slice(1))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), row)

    @property
    def row_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.read(slice(1))))

    @property
    def nbytes(self) -> int:
        return len(jax.tree.leaves(self.inputs)[0]) * self.row_bytes


def streams(placement: str, host: HostData, devices: int, memory: int) -> bool:
    """Whether the inputs are streamed to the `devices` that share them: if so wished, or, by `auto`, as they would take
    more than half of each one's `memory`, in bytes."""
    if placement != "auto":
        return placement == "stream"
    return 2 * host.nbytes > memory * devices


def device_memory() -> int:
    """Bytes that each device may use: as it says, or, of CPUs, its share of the machine's memory. What the first
    process has found holds for all."""
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CONTAINER.read_text().strip() if _CONTAINER.is_file() else ""
    machine = min(machine, int(limit)) if limit.isdigit() else machine
    found = stats.get("bytes_limit", machine // jax.local_device_count())
    if jax.process_count() == 1:
        return found
    return int(multihost_utils.broadcast_one_to_all(np.int32(found // 2**20))) * 2**20


def steps_per_window(host: HostData, plan: TrainSchedule, *, trials: int, devices: int) -> int:
    """As many steps as `WINDOW_BYTES` a device hold the batches of, at least one; an epoch's windows are alike."""
    most = max(1, WINDOW_BYTES * devices // (trials * plan.batch_size * host.row_bytes))
    windows = -(-plan.steps_per_epoch // most)
    return -(-plan.steps_per_epoch // windows)


class DeviceFeed:
    """Inputs that all lie on the devices, in equal parts."""

    def __init__(self, host: HostData, rows: Sequence[np.ndarray], plan: TrainSchedule, mesh: Mesh):
        self.plan = plan
        self._data = TrainData(put_sharded(host.read(slice(None)), mesh), *put(tuple(rows), replicated(mesh)))

    def at(self, step: int) -> TrainData:
        """What the steps from `step` on read, up to the plan's next stop."""
        return self._data

    def windows(self, batches: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """The rows `batches` [n, B] of the data set, part after part: inputs on the devices, and rows [m, B] of
        those."""
        yield self._data.inputs, batches


class StreamFeed:
    """Inputs that stay with the host: the devices get the rows of some steps, a window, at a time. As `DeviceFeed`, but
    that `at` must be asked for ever later steps."""

    def __init__(
        self, host: HostData, rows: Sequence[np.ndarray], plan: TrainSchedule, mesh: Mesh, keys: Sequence[jax.Array]
    ):
        self._host, self._mesh = host, mesh
        self._steps = steps_per_window(host, plan, trials=len(keys), devices=mesh.shape[AXIS])
        self._per_epoch = -(-plan.steps_per_epoch // self._steps)
        self.plan = replace(plan, steps_per_window=self._steps)
        self._train, labels, pool = rows
        self._shared = put((labels, pool), replicated(mesh))
        self._orders, self._lock = lru_cache(2)(orders(keys, pool, plan)), threading.Lock()
        self._coming: Iterator[tuple[int, TrainData]] | None = None
        self._held: tuple[int, TrainData] | None = None

    def at(self, step: int) -> TrainData:
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        window = epoch * self._per_epoch + within // self._steps
        if self._coming is None:
            self._coming = self._training(window)
        while self._held is None or self._held[0] < window:
            self._held = next(self._coming)
        return self._held[1]

    def windows(self, batches: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        size = batches.shape[1]
        most = max(1, WINDOW_BYTES * self._mesh.shape[AXIS] // (size * self._host.row_bytes))
        parts = np.array_split(batches, -(-len(batches) // most))
        count = parts[0].size
        inputs = stream(self._host, lambda i: np.resize(parts[i], count), range(len(parts)), count, self._mesh)
        for part, own in zip(parts, inputs, strict=True):
            yield own, np.arange(part.size, dtype=np.int32).reshape(part.shape)

    def _training(self, first: int) -> Iterator[tuple[int, TrainData]]:
        windows = range(first, -(-self.plan.total_steps // self.plan.steps_per_epoch) * self._per_epoch)
        size = len(self._positions(first))
        coming = stream(self._host, lambda window: self._train[self._positions(window)], windows, size, self._mesh)
        for window, inputs in zip(windows, coming, strict=True):
            places = np.zeros(len(self._train), np.int32)
            places[self._positions(window)] = np.arange(size)
            yield window, TrainData(inputs, put(places, replicated(self._mesh)), *self._shared)

    def _positions(self, window: int) -> np.ndarray:
        """Those that the window's steps are trained on, of all trials; its last one again where an epoch ends."""
        epoch, i = divmod(window, self._per_epoch)
        with self._lock:
            order = self._orders(epoch)
        found = order[:, i * self._steps : (i + 1) * self._steps].ravel()
        return np.pad(found, (0, order[:, : self._steps].size - found.size), mode="edge")


def orders(keys: Sequence[jax.Array], pool: np.ndarray, plan: TrainSchedule) -> Callable[[int], np.ndarray]:
    """The positions [T, steps, B] that an epoch of T trials is trained on, as the training program draws them."""
    own, shared = jnp.stack(keys), jnp.asarray(pool)

    @jax.jit
    def draw(epoch):
        return jax.vmap(lambda key: draw_epoch(key, epoch, shared, plan.steps_per_epoch, plan.batch_size))(own)

    return lambda epoch: jax.device_get(draw(jax.device_put(np.int32(epoch))))


def stream(
    host: HostData, rows_of: Callable[[int], np.ndarray], windows: Sequence[int], size: int, mesh: Mesh
) -> Iterator[Any]:
    """The rows `rows_of(window)` [size] of each of the windows, in equal parts on the devices. Threads read them ahead,
    block by block; a process reads those of its own devices alone."""
    import grain  # here: it takes seconds, and few runs stream

    outline = host.outline(size)
    indices = [
        index[0]
        for x in jax.tree.leaves(sharded_spec(outline, mesh))
        for index in x.sharding.addressable_devices_indices_map(x.shape).values()
    ]
    own = np.unique(np.concatenate([np.arange(size)[index] for index in indices]))
    blocks = np.array_split(own, -(-len(own) * host.row_bytes // _BLOCK_BYTES))

    def read(i: int) -> Any:
        window, block = divmod(i, len(blocks))
        return host.read(rows_of(windows[window])[blocks[block]])

    options = grain.ReadOptions(num_threads=_BLOCKS_AHEAD, prefetch_buffer_size=_BLOCKS_AHEAD)
    ahead = iter(grain.MapDataset.range(len(windows) * len(blocks)).map(read).to_iter_dataset(options))

    def arrived() -> Any:
        window = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), outline)
        for places in blocks:
            for x, block in zip(jax.tree.leaves(window), jax.tree.leaves(next(ahead)), strict=True):
                x[places] = block
        return window

    for _ in windows:
        yield put_sharded(arrived(), mesh)
