"""Mesh construction, placement of arrays, and functions mapped over batches."""

import os
from collections.abc import Callable, Iterable, Sequence
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.console import progress
from rgjax.errors import UserError, first_line

TRIAL, AXIS = "trial", "data"  # mesh axes: over the trials of a population, over the examples of a batch
GPU_MEMORY = 0.92  # the share of a GPU's memory that JAX allocates unless the user sets it; JAX's default is 0.75
_GPU_MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # JAX refuses both at once


def require_devices() -> None:
    """Let JAX find its devices. Raises UserError if its platform cannot be had."""
    os.environ.update(gpu_memory())
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platform = os.environ.get("JAX_PLATFORMS", "")
        reason = first_line(error).partition(" (set JAX_PLATFORMS")[0] if str(error) else "JAX has no such devices here"
        raise UserError(
            f"JAX_PLATFORMS={platform}: cannot be used: {reason}; set JAX_PLATFORMS=cpu, or unset it, or install what "
            "the platform needs (the extra cuda13, cuda12 or tpu)"
        ) from error


def gpu_memory(processes: int = 1) -> dict[str, str]:
    """The environment variable that gives each process its part of a GPU's memory."""
    name = next((name for name in _GPU_MEMORY_NAMES if os.environ.get(name)), _GPU_MEMORY_NAMES[0])
    value = os.environ.get(name) or str(GPU_MEMORY)
    try:
        return {name: value if processes == 1 else f"{float(value) / processes:.3g}"}
    except ValueError as error:
        raise UserError(f"{name}={value}: not a number; set a share of the memory such as {GPU_MEMORY}") from error


def make_mesh(devices: Sequence[Any], *, trials: int, batch_size: int) -> Mesh:
    """A mesh [trial, data] with as many rows as divide the trials evenly.

    Args:
        devices: of all processes.
        trials: that train as one program.
        batch_size: examples of a step.

    Raises:
        UserError: if the devices of a row cannot share a batch evenly.
    """
    rows = gcd(trials, len(devices))
    mesh = Mesh(np.array(devices).reshape(rows, -1), (TRIAL, AXIS))
    if batch_size % mesh.shape[AXIS]:
        raise UserError(
            f"config.train.batch_size={batch_size}: not a multiple of the {mesh.shape[AXIS]} devices that share a "
            "batch; choose a multiple"
        )
    return mesh


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def trial_sharded(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(TRIAL))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Place arrays, which all processes hold alike, on the devices of all processes."""

    def put_leaf(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put_leaf(jax.random.key_data(x)))
        return _put(np.asarray(x), x.shape, sharding)

    return jax.tree.map(put_leaf, tree)


def put_sharded(tree: Any, mesh: Mesh) -> Any:
    """Shard arrays [M, ...] over the devices that share a batch.

    They are padded with zeros to equal shards.
    """
    return jax.tree.map(lambda x, spec: _put(x, spec.shape, spec.sharding), tree, sharded_spec(tree, mesh))


def sharded_spec(tree: Any, mesh: Mesh) -> Any:
    """The shapes and shardings of what `put_sharded` returns."""
    count, sharding = mesh.shape[AXIS], NamedSharding(mesh, PartitionSpec(AXIS))

    def spec(x):
        return jax.ShapeDtypeStruct((-(-len(x) // count) * count, *x.shape[1:]), x.dtype, sharding=sharding)

    return jax.tree.map(spec, tree)


def _put(x: np.ndarray, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    def shard(index):
        values = x[index]
        missing = len(range(*index[0].indices(shape[0]))) - len(values) if index else 0
        return np.concatenate([values, np.zeros_like(x, shape=(missing, *x.shape[1:]))]) if missing else values

    # Explicit transfers pass a transfer guard.
    shards = [
        jax.device_put(shard(index), device)
        for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def stack(trees: Sequence[Any]) -> Any:
    """Stack T trees of arrays into one of arrays [T, ...].

    It happens on the host and compiles no program.
    """
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def is_first_process() -> bool:
    """Whether this process writes the files of a run.

    All other processes compute the same and write nothing.
    """
    return jax.process_index() == 0


def in_any_process(flag: bool) -> Callable[[], bool]:
    """Asynchronous all-reduce of a flag; call the result to block for it."""
    if jax.process_count() == 1:
        return lambda: flag
    mesh = Mesh(np.array(jax.devices()), AXIS)
    flags = jax.make_array_from_callback(
        (mesh.size,), NamedSharding(mesh, PartitionSpec(AXIS)), lambda _: np.array([flag])
    )
    any_set = jax.jit(jnp.any, out_shardings=replicated(mesh))(flags)
    return lambda: bool(np.asarray(any_set))


def wait_for_all(what: str) -> None:
    """Block until all processes have reached `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def in_batches(indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Indices [n] as [ceil(n / batch_size), batch_size].

    The last batch is padded with the first indices.
    """
    return np.resize(indices, (-(-len(indices) // batch_size), batch_size))


class OnDevices:
    """`forward(params, batch)`, compiled as an asynchronous function of the batch.

    A batch is one array or several of B examples, B a multiple of the number of local devices. Processes do not share
    the work, because what is cached for one may have to be computed by another. Each device computes its share of a
    batch alone, so that `forward` sees B / devices examples.
    """

    def __init__(self, forward: Callable, params):
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
        by_example, everywhere = PartitionSpec(AXIS), PartitionSpec()
        self._mapped = jax.jit(
            jax.shard_map(forward, mesh=mesh, in_specs=(everywhere, by_example), out_specs=by_example)
        )
        self._by_example = NamedSharding(mesh, by_example)
        self._params = jax.device_put(params, NamedSharding(mesh, everywhere))

    def __call__(self, batch):
        return self._mapped(self._params, jax.device_put(batch, self._by_example))

    def batch_size(self, batch_of: Callable[[int], Any], *, cached: int, most: int) -> int:
        """The examples of a batch on all devices, by their memory.

        Args:
            batch_of: `B -> ` the shapes of a batch of B examples.
            cached: examples per device on CPUs, where few stay in the cache.
            most: examples per device that keep an accelerator busy. They are halved until they fit in half of the free
                memory; the program compiled for this is the one that runs.
        """
        free, size = free_memory(), cached
        if free is not None:
            size = most
            while size > 1 and self._memory(batch_of(size * self._by_example.mesh.size)) > free // 2:
                size //= 2
        return size * self._by_example.mesh.size

    def _memory(self, batch) -> int:
        """Bytes that each device needs for a batch, besides the parameters."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._by_example), batch)
        needed: Any = self._mapped.lower(self._params, shapes).compile().memory_analysis()
        return needed.temp_size_in_bytes + needed.output_size_in_bytes


def free_memory() -> int | None:
    """Bytes that a local device has left; None on CPUs."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else None


def over_devices(forward: Callable, params, batches: Iterable, **how: Any) -> np.ndarray:
    """Apply `forward(params, batch)` to all batches, as `over_batches` does."""
    return over_batches(OnDevices(forward, params), batches, **how)


def over_batches(forward: Callable, batches: Iterable, *, what: str, total: int, unit: str = "example") -> np.ndarray:
    """Apply `forward(batch) -> [B, D]` to all batches: [total, D].

    Args:
        forward: an `OnDevices`.
        batches: its arguments.
        what: the label of the progress bar.
        total: the number of examples; those that fill up the last batch are dropped.
        unit: the noun of an example.
    """
    pending, outputs = [], []
    with progress(None, what, total, unit=unit) as bar:

        def finish() -> None:
            outputs.append(np.asarray(pending.pop(0)))
            bar.update(min(len(outputs[-1]), total - bar.n))

        for batch in batches:
            # The devices compute one batch while the host prepares the next.
            pending.append(forward(batch))
            if len(pending) > 1:
                finish()
        finish()
    return np.concatenate(outputs)[:total]
