"""Mesh construction, placement of arrays on devices, and functions mapped over batches on all devices."""

from collections.abc import Callable, Iterable, Sequence
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.console import progress
from rgjax.errors import UserError

TRIAL, AXIS = "trial", "data"  # mesh axes: over the trials of a population, over the examples of a batch


def make_mesh(devices: Sequence[Any], *, trials: int, batch_size: int) -> Mesh:
    """A mesh [trial, data]: trials exchange nothing, so they get as many rows of devices as divide them evenly.

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
    """Place arrays, which every process holds alike, on the devices of all processes."""

    def put_leaf(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put_leaf(jax.random.key_data(x)))
        return _put(np.asarray(x), x.shape, sharding)

    return jax.tree.map(put_leaf, tree)


def put_sharded(tree: Any, mesh: Mesh) -> Any:
    """Split arrays [M, ...] evenly over the devices that share a batch, padded with zeros to equal shards."""
    return jax.tree.map(lambda x, spec: _put(x, spec.shape, spec.sharding), tree, sharded_spec(tree, mesh))


def sharded_spec(tree: Any, mesh: Mesh) -> Any:
    """The shapes and shardings that `put_sharded` gives."""
    count, sharding = mesh.shape[AXIS], NamedSharding(mesh, PartitionSpec(AXIS))

    def spec(x):
        return jax.ShapeDtypeStruct((-(-len(x) // count) * count, *x.shape[1:]), x.dtype, sharding=sharding)

    return jax.tree.map(spec, tree)


def _put(x: np.ndarray, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    def shard(index):
        values = x[index]
        missing = len(range(*index[0].indices(shape[0]))) - len(values) if index else 0
        return np.concatenate([values, np.zeros_like(x, shape=(missing, *x.shape[1:]))]) if missing else values

    # One transfer after the other, each explicit, so that a transfer guard lets it pass.
    shards = [
        jax.device_put(shard(index), device)
        for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def stack(trees: Sequence[Any]) -> Any:
    """Stack several trees of arrays into one of arrays [T, ...], on the host: it compiles no program."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def is_first_process() -> bool:
    """Whether this process writes the files of a run; the others compute the same and write nothing."""
    return jax.process_index() == 0


def in_any_process(flag: bool) -> Callable[[], bool]:
    """Whether the flag is set in any process: an asynchronous all-reduce; call the result to block for it."""
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
    """Indices [n] as [ceil(n / batch_size), batch_size]; the last batch is filled up with the first indices."""
    return np.resize(indices, (-(-len(indices) // batch_size), batch_size))


def on_devices(forward: Callable, params) -> Callable:
    """Compile `forward(params, batch)` as a function of the batch that runs on all local devices, asynchronously.

    A batch is one array or several of B examples, B a multiple of the number of local devices. Each process works for
    itself, because one may find in its cache what another has to compute. Whatever `forward` does across the examples
    of a batch stays on one device.
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    by_example, everywhere = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.jit(jax.shard_map(forward, mesh=mesh, in_specs=(everywhere, by_example), out_specs=by_example))
    params = jax.device_put(params, NamedSharding(mesh, everywhere))
    return lambda batch: mapped(params, jax.device_put(batch, NamedSharding(mesh, by_example)))


def over_devices(forward: Callable, params, batches: Iterable, *, what: str, total: int) -> np.ndarray:
    """`forward(params, batch) -> [B, D]` of `total` batches, one after the other: [total * B, D]."""
    forward = on_devices(forward, params)
    pending, outputs = [], []
    for batch in progress(batches, what, total, unit="batch"):
        # The devices compute one batch while the host prepares the next.
        pending.append(forward(batch))
        if len(pending) > 1:
            outputs.append(np.asarray(pending.pop(0)))
    return np.concatenate([*outputs, *map(np.asarray, pending)])
