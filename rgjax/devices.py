"""How trials and batches are spread over devices, and how what the host holds gets there."""

from collections.abc import Sequence
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
        x = np.asarray(x)
        parts = sharding.addressable_devices_indices_map(x.shape).items()
        here = [jax.device_put(x[part], device) for device, part in parts]  # a transfer that a guard may see
        return jax.make_array_from_single_device_arrays(x.shape, sharding, here)

    return jax.tree.map(put, tree)


def stack(trees: Sequence[Any]) -> Any:
    """Several trees of arrays as one of arrays [T, ...], made on the host: no program is compiled for it."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def is_first_process() -> bool:
    """Whether this process writes the files of a run; all others compute alike and write nothing."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait until all processes have come to `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
