"""Rows of a table, with a gradient that needs no scatter.

The gradient of a row is the sum over all places that hold it. Of `table[indices]` XLA sums by scatter: on NVIDIA's
cards by atomic operations, in another order in every run, and with a loop of compare-and-swap where rows collide.
"""

from functools import partial

import jax
import jax.numpy as jnp

_SHORT = 1024  # rows of a table whose gradient is one product
_BLOCK = 128  # sorted places that are summed by one product


def lookup(table: jax.Array, indices: jax.Array) -> jax.Array:
    """`table[indices]`: rows of a table [V, D] at indices in 0..V-1 of any shape.

    On NVIDIA's cards the gradient has the same bits in every run.
    """
    return _lookup(len(table), table, indices)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(rows, table, indices):
    return table[indices]


def _forward(rows, table, indices):
    return table[indices], indices


def _backward(rows, indices, dy):
    by_sums = sum_by_product if rows <= _SHORT else sum_by_segments
    sums = jax.lax.platform_dependent(
        indices, dy, cuda=partial(by_sums, rows=rows), default=partial(sum_by_scatter, rows=rows)
    )
    return sums, None


_lookup.defvjp(_forward, _backward)


def sum_by_scatter(indices: jax.Array, dy: jax.Array, rows: int) -> jax.Array:
    """Sums [rows, D] of the values `dy` [..., D] at each of the indices [...]."""
    table = jax.ShapeDtypeStruct((rows, dy.shape[-1]), dy.dtype)
    [sums] = jax.linear_transpose(lambda table: table[indices], table)(dy)
    return sums


def sum_by_product(indices: jax.Array, dy: jax.Array, rows: int) -> jax.Array:
    """The same by a product with one-hot rows; for few rows."""
    one_hot = jax.nn.one_hot(indices.reshape(-1), rows, dtype=dy.dtype)
    return jnp.einsum("nv,nd->vd", one_hot, dy.reshape(-1, dy.shape[-1]), precision="highest")


def sum_by_segments(indices: jax.Array, dy: jax.Array, rows: int) -> jax.Array:
    """The same of sorted indices, by products within blocks, then over the blocks."""
    indices, dy = indices.reshape(-1), dy.reshape(-1, dy.shape[-1])
    padded = jnp.pad(indices, (0, -len(indices) % _BLOCK), constant_values=rows)
    keys, order = jax.lax.sort_key_val(padded, jnp.arange(len(padded), dtype=jnp.int32))
    values = dy.at[order].get(mode="fill", fill_value=0).reshape(-1, _BLOCK, dy.shape[1])
    blocks = keys.reshape(-1, _BLOCK)
    equal = (blocks[:, :, None] == blocks[:, None]).astype(dy.dtype)
    sums = jnp.einsum("bij,bjd->bid", equal, values, precision="highest")

    # The last index of a block may go on in later blocks, as the first one there.
    goes_on = jnp.triu(blocks[:, -1:] == blocks[None, :, 0], 1).astype(dy.dtype)
    beyond = jnp.einsum("bc,cd->bd", goes_on, sums[:, 0], precision="highest")
    sums = sums + jnp.where(blocks[:, :, None] == blocks[:, -1:, None], beyond[:, None], jnp.zeros((), dy.dtype))

    row = jnp.arange(rows, dtype=keys.dtype)
    first = jnp.searchsorted(keys, row, method="scan_unrolled")
    first = jnp.where(keys.at[first].get(mode="clip") == row, first, len(keys))
    return sums.reshape(-1, dy.shape[1]).at[first].get(mode="fill", fill_value=0)
