"""Training data, resident on the devices or streamed from the host in chunks.

To the training program, a chunk is a small resident data set: the inputs of a few steps, and the index of each
training example in them. Streaming therefore runs the same program and gives the same results.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rgjax.sharding import AXIS, put, put_sharded, replicated, sharded_spec, trial_sharded
from rgjax.training.loop import TrainSchedule
from rgjax.training.program import TrainData, draw_epoch

CHUNK_BYTES = 2**27  # per device, which holds two chunks (one is prefetched), and three during an evaluation
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
_BLOCK_BYTES, _BLOCKS_AHEAD = 2**23, 16

# Indices [N], labels [N] and pool [P], or those of each trial and the sizes of their pools, as in TrainData.
Examples: TypeAlias = tuple[np.ndarray, ...]


def _unchanged(examples: Any) -> Any:
    return examples


@dataclass(frozen=True)
class HostData:
    """A data set on the host.

    Attributes:
        inputs: one array [M, ...] or several, perhaps memory-mapped.
        convert: from examples as they are stored here to examples as the devices store them.
    """

    inputs: Any
    convert: Callable[[Any], Any] = _unchanged

    def read(self, indices: np.ndarray | slice) -> Any:
        return self.convert(jax.tree.map(lambda x: x[indices], self.inputs))

    def spec(self, count: int) -> Any:
        """The shapes of `count` examples as the devices store them."""
        example = self.read(slice(1))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), example)

    def __len__(self) -> int:
        """The number of examples."""
        return len(jax.tree.leaves(self.inputs)[0])

    @property
    def example_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.read(slice(1))))

    @property
    def nbytes(self) -> int:
        return len(self) * self.example_bytes


def streams(placement: str, host: HostData, devices: int, memory: int) -> bool:
    """True for "stream", or for "auto" if the data exceeds half of device memory.

    Args:
        placement: "device", "stream" or "auto".
        host: the data.
        devices: number of devices that share it.
        memory: bytes per device.
    """
    if placement != "auto":
        return placement == "stream"
    return 2 * host.nbytes > memory * devices


def device_memory() -> int:
    """Memory of one device in bytes; for a CPU device, its share of the machine's.

    All processes get the same value.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CONTAINER.read_text().strip() if _CONTAINER.is_file() else ""
    machine = min(machine, int(limit)) if limit.isdigit() else machine
    memory = stats.get("bytes_limit", machine // jax.local_device_count())
    if jax.process_count() == 1:
        return memory
    return int(multihost_utils.broadcast_one_to_all(np.int32(memory // 2**20))) * 2**20


def steps_per_chunk(host: HostData, schedule: TrainSchedule, *, trials: int, devices: int) -> int:
    """Number of steps, at least one, whose batches fit `CHUNK_BYTES` per device.

    It divides an epoch into equal chunks; only the last one may be shorter.

    Args:
        host: the data.
        schedule: gives the batch size and the steps per epoch.
        trials: number of trials; a chunk holds the batches of all.
        devices: number of devices that share the data.
    """
    most = max(1, CHUNK_BYTES * devices // (trials * schedule.batch_size * host.example_bytes))
    chunks = -(-schedule.steps_per_epoch // most)
    return -(-schedule.steps_per_epoch // chunks)


def _put_examples(examples: Examples, mesh: Mesh) -> Examples:
    return put(examples, trial_sharded(mesh) if examples[0].ndim == 2 else replicated(mesh))


class DeviceFeed:
    """Training data that is resident on the devices, in equal shards."""

    def __init__(self, host: HostData, examples: Examples, schedule: TrainSchedule, mesh: Mesh):
        self.schedule = schedule
        self._data = TrainData(put_sharded(host.read(slice(None)), mesh), *_put_examples(examples, mesh))

    def at(self, step: int) -> TrainData:
        """The data for the steps from `step` to the schedule's next stop."""
        return self._data

    def eval_chunks(self, batches: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Load the examples of `batches` [..., n, B], given as indices, chunk by chunk.

        Yields a chunk's inputs on the devices, and its batches [..., m, B] as indices in these inputs.
        """
        yield self._data.inputs, batches


class StreamFeed:
    """Training data that the host streams to the devices in chunks of a few steps.

    The interface is that of `DeviceFeed`, but `at` must be called with increasing steps.
    """

    def __init__(
        self, host: HostData, examples: Examples, schedule: TrainSchedule, mesh: Mesh, keys: Sequence[jax.Array]
    ):
        self._host, self._mesh = host, mesh
        self._steps = steps_per_chunk(host, schedule, trials=len(keys), devices=mesh.shape[AXIS])
        self._per_epoch = -(-schedule.steps_per_epoch // self._steps)
        self.schedule = replace(schedule, steps_per_chunk=self._steps)
        self._indices, self._others = examples[0], _put_examples(examples[1:], mesh)
        self._draw, self._lock = lru_cache(2)(epoch_drawer(keys, *examples[2:], schedule=schedule)), threading.Lock()
        self._chunks: Iterator[tuple[int, TrainData]] | None = None
        self._current: tuple[int, TrainData] | None = None

    def at(self, step: int) -> TrainData:
        epoch, within = divmod(step, self.schedule.steps_per_epoch)
        chunk = epoch * self._per_epoch + within // self._steps
        if self._chunks is None:
            self._chunks = self._train_chunks(chunk)
        while self._current is None or self._current[0] < chunk:
            self._current = next(self._chunks)
        return self._current[1]

    def eval_chunks(self, batches: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        count = batches.shape[-2]
        most = max(1, CHUNK_BYTES * self._mesh.shape[AXIS] * count // (batches.size * self._host.example_bytes))
        chunks = np.array_split(batches, -(-count // most), axis=-2)
        count = chunks[0].size
        inputs = stream(self._host, lambda i: np.resize(chunks[i], count), range(len(chunks)), count, self._mesh)
        for chunk, on_devices in zip(chunks, inputs, strict=True):
            yield on_devices, np.arange(chunk.size, dtype=np.int32).reshape(chunk.shape)

    def _train_chunks(self, first: int) -> Iterator[tuple[int, TrainData]]:
        chunks = range(first, -(-self.schedule.total_steps // self.schedule.steps_per_epoch) * self._per_epoch)
        size = self._key(first)[-1].size
        inputs = stream(self._host, lambda chunk: self._indices[self._key(chunk)].ravel(), chunks, size, self._mesh)
        for chunk, on_devices in zip(chunks, inputs, strict=True):
            key = self._key(chunk)
            indices = np.zeros(self._indices.shape, np.int32)
            indices[key] = np.arange(size).reshape(key[-1].shape)
            yield chunk, TrainData(on_devices, _put_examples((indices,), self._mesh)[0], *self._others)

    def _key(self, chunk: int) -> tuple[np.ndarray, ...]:
        """What selects the examples of a chunk's batches of all trials from `_indices`.

        The last chunk of an epoch is padded by repeating its last position.
        """
        epoch, i = divmod(chunk, self._per_epoch)
        with self._lock:
            order = self._draw(epoch)
        positions = order[:, i * self._steps : (i + 1) * self._steps].reshape(len(order), -1)
        missing = order[0, : self._steps].size - positions.shape[1]
        positions = np.pad(positions, ((0, 0), (0, missing)), mode="edge")
        return (positions,) if self._indices.ndim == 1 else (np.arange(len(order))[:, None], positions)


def epoch_drawer(
    keys: Sequence[jax.Array], pool: np.ndarray, size: np.ndarray | None = None, *, schedule: TrainSchedule
) -> Callable[[int], np.ndarray]:
    """A function that draws as training does: epoch -> positions [T, steps, B].

    The pool is that of all trials, or with `size` those of each, as in TrainData.
    """
    arguments = jnp.stack(keys), jnp.asarray(pool), None if size is None else jnp.asarray(size)
    axis = None if size is None else 0

    @jax.jit
    def draw(epoch):
        def of_trial(key, pool, size):
            return draw_epoch(key, epoch, pool, schedule.steps_per_epoch, schedule.batch_size, size)

        return jax.vmap(of_trial, (0, axis, axis))(*arguments)

    return lambda epoch: jax.device_get(draw(jax.device_put(np.int32(epoch))))


def stream(
    host: HostData, indices_of: Callable[[int], np.ndarray], chunks: Sequence[int], size: int, mesh: Mesh
) -> Iterator[Any]:
    """Yield the inputs of each chunk, in equal shards on the devices.

    Threads prefetch blocks of examples; a process reads only the shards of its own devices.

    Args:
        host: the data.
        indices_of: `chunk -> indices [size]` of its examples.
        chunks: the chunks, in the order of their use.
        size: examples per chunk.
        mesh: the devices.
    """
    import grain  # not at the top: the import takes seconds, and few runs stream

    spec = host.spec(size)
    shards = [
        index[0]
        for x in jax.tree.leaves(sharded_spec(spec, mesh))
        for index in x.sharding.addressable_devices_indices_map(x.shape).values()
    ]
    slots = np.unique(np.concatenate([np.arange(size)[shard] for shard in shards]))
    blocks = np.array_split(slots, -(-len(slots) * host.example_bytes // _BLOCK_BYTES))

    def read(i: int) -> Any:
        chunk, block = divmod(i, len(blocks))
        return host.read(indices_of(chunks[chunk])[blocks[block]])

    options = grain.ReadOptions(num_threads=_BLOCKS_AHEAD, prefetch_buffer_size=_BLOCKS_AHEAD)
    ahead = iter(grain.MapDataset.range(len(chunks) * len(blocks)).map(read).to_iter_dataset(options))

    def next_chunk() -> Any:
        chunk = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), spec)
        for block_slots in blocks:
            for x, block in zip(jax.tree.leaves(chunk), jax.tree.leaves(next(ahead)), strict=True):
                x[block_slots] = block
        return chunk

    for _ in chunks:
        yield put_sharded(next_chunk(), mesh)
