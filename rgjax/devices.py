"""How trials and batches are spread over devices, and how what the host holds gets there."""

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.errors import UserError
from rgjax.training.program import AXIS, TRIAL


def make_mesh(devices: Sequence[Any], *, trials: int, batch_size: int) -> Mesh:
    """As many rows of devices as share `trials` evenly, for trials exchange nothing; a batch is spread over a row.

    Raises UserError where a row cannot share a batch evenly.
    """
    rows = gcd(trials, len(devices))
    mesh = Mesh(np.array(devices).reshape(rows, -1), (TRIAL, AXIS))
    if batch_size % mesh.shape[AXIS]:
        raise UserError(
            f"config.train.batch_size={batch_size} is no multiple of the {mesh.shape[AXIS]} devices that share a batch"
        )
    return mesh


def everywhere(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_trial(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(TRIAL))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """The arrays of `tree`, which every process holds alike, on the devices of all processes."""

    def put(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        return _put(np.asarray(x), x.shape, sharding)

    return jax.tree.map(put, tree)


def place_rows(tree: Any, mesh: Mesh) -> Any:
    """The rows of arrays [M, ...] in equal parts on the devices that share a batch, the last filled up by blanks."""
    return jax.tree.map(lambda x, outline: _put(x, outline.shape, outline.sharding), tree, placed_rows(tree, mesh))


def placed_rows(tree: Any, mesh: Mesh) -> Any:
    """The shapes and shardings that `place_rows` gives."""
    count, sharding = mesh.shape[AXIS], NamedSharding(mesh, PartitionSpec(AXIS))

    def outline(x):
        return jax.ShapeDtypeStruct((-(-len(x) // count) * count, *x.shape[1:]), x.dtype, sharding=sharding)

    return jax.tree.map(outline, tree)


def _put(x: np.ndarray, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    def part(index):
        own = x[index]
        missing = len(range(*index[0].indices(shape[0]))) - len(own) if index else 0
        return np.concatenate([own, np.zeros_like(x, shape=(missing, *x.shape[1:]))]) if missing else own

    # One transfer after the other, and each an explicit one that a transfer guard lets pass.
    parts = [
        jax.device_put(part(index), device) for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def stack(trees: Sequence[Any]) -> Any:
    """Several trees of arrays as one of arrays [T, ...], made on the host: no program is compiled for it."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def is_first_process() -> bool:
    """Whether this process writes the files of a run; all others compute alike and write nothing."""
    return jax.process_index() == 0


def in_any_process(flag: bool) -> Callable[[], bool]:
    """Whether the flag is set in one of the processes: asked behind what the devices have to do, and known after it."""
    if jax.process_count() == 1:
        return lambda: flag
    mesh = Mesh(np.array(jax.devices()), AXIS)
    spread, alike = NamedSharding(mesh, PartitionSpec(AXIS)), everywhere(mesh)
    flags = jax.make_array_from_callback((mesh.size,), spread, lambda _: np.array([flag]))
    found = jax.jit(jnp.any, out_shardings=alike)(flags)
    return lambda: bool(np.asarray(found))


def wait_for_all(what: str) -> None:
    """Wait until all processes have come to `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
