"""Many rows through a network, batch by batch."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.progress import progress


def in_batches(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """`rows` [n] as [ceil(n / batch_size), batch_size]; the last batch is filled up with the first rows."""
    return np.resize(rows, (-(-len(rows) // batch_size), batch_size))


def on_devices(forward: Callable, params) -> Callable:
    """`forward(params, batch)` as a compiled function of the batch, which may return before its result is there.

    A batch is one or several arrays of B rows, B a multiple of the count of local devices: one process may find in its
    cache what another has to compute, so each works for itself. Devices work on their own rows alone: whatever
    `forward` does among the rows of a batch stays on one device.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    spread = jax.jit(jax.shard_map(forward, mesh=mesh, in_specs=(everywhere, rows), out_specs=rows))
    params = jax.device_put(params, NamedSharding(mesh, everywhere))
    return lambda batch: spread(params, jax.device_put(batch, NamedSharding(mesh, rows)))


def over_devices(forward: Callable, params, batches: Iterable, *, what: str, total: int) -> np.ndarray:
    """`forward(params, batch) -> [B, D]` of `total` batches, as `on_devices` has them, one after the other
    [total * B, D]."""
    forward = on_devices(forward, params)
    started, done = [], []
    for batch in progress(batches, what, total, unit="batch"):
        # One batch is computed while the host prepares the next.
        started.append(forward(batch))
        if len(started) > 1:
            done.append(np.asarray(started.pop(0)))
    return np.concatenate([*done, *map(np.asarray, started)])
