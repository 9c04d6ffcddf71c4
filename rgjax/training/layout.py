"""How parameters are stored in training: as a tree of arrays or as one vector."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
    """How parameters, gradients, moments and batch statistics are stored.

    Attributes:
        flatten: a TrainState, or a part of it, from trees of arrays to what is stored.
        unflatten: the inverse.
        select: `(condition, update, keep)`: the result of one of two functions.
        buckets: `(gradients as trees, bytes)`: arrays of about so many bytes, which devices sum one by one.
        join: gradients as they are stored, from their buckets.
    """

    flatten: Callable[[Any], Any]
    unflatten: Callable[[Any], Any]
    select: Callable[[jax.Array, Callable, Callable], Any]
    buckets: Callable[[Any, float], Any]
    join: Callable[[Any], Any]


# `cond` avoids copying the optimizer state at every step, which `where` would.
TREES = Layout(lambda tree: tree, lambda tree: tree, jax.lax.cond, lambda grads, _: grads, lambda grads: grads)
_LARGE = 500_000  # values that an A100 writes and reads in the time in which it launches a kernel, about 3 us


def layout_for(platform: str, params: Any, batch_stats: Any) -> Layout:
    """Trees on CPUs and TPUs; on GPUs one vector of small arrays, large ones apart.

    On a GPU, updating a hundred arrays takes a hundred small kernels. Joined gradients, however, are written and read
    once more, which takes longer for the few arrays of a transformer, whose layers are stacked.
    """
    if platform not in ("gpu", "cuda"):
        return TREES
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    return one_vector(params, batch_stats) if sum(sizes) < _LARGE * len(sizes) else TREES._replace(select=_by_where)


def _by_where(condition, update, keep):
    # On a GPU `cond` would wait for the host.
    return jax.tree.map(partial(jnp.where, condition), update(), keep())


def one_vector(params: Any, batch_stats: Any = None) -> Layout:
    """Store all of `params` as one vector, and all of `batch_stats` as another.

    Gradients and moments are stored as their parameters are.
    """
    structures, by_size = set(), {}  # of the trees; structure and shapes by the size of their vectors
    for tree in (params, batch_stats):
        leaves, structure = jax.tree.flatten(tree)
        size = sum(leaf.size for leaf in leaves)
        if leaves and size not in by_size:  # vectors of equal sizes could not be told apart
            structures.add(structure)
            by_size[size] = structure, [leaf.shape for leaf in leaves]

    def is_tree(tree):
        return jax.tree.structure(tree) in structures

    def join(tree):
        return _vector(jax.tree.leaves(tree)) if is_tree(tree) else tree

    def split(stored):
        if stored.ndim != 1 or stored.size not in by_size:
            return stored
        structure, shapes = by_size[stored.size]
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes]).tolist()
        slices = zip([0, *ends], ends, shapes, strict=False)
        return jax.tree.unflatten(structure, [stored[start:end].reshape(shape) for start, end, shape in slices])

    return Layout(
        jax.jit(lambda tree: jax.tree.map(join, tree, is_leaf=is_tree)),
        jax.jit(lambda tree: jax.tree.map(split, tree)),
        _by_where,
        _buckets,
        # Without the barrier, XLA makes of the sum of joined gradients a sum for each of them.
        lambda vectors: jax.lax.optimization_barrier(_vector(vectors)),
    )


def _vector(arrays: list) -> jax.Array:
    return jnp.concatenate([array.reshape(-1) for array in arrays])


def _buckets(grads: Any, size: float) -> list[jax.Array]:
    buckets: list[list] = [[]]
    for leaf in jax.tree.leaves(grads):
        buckets[-1].append(leaf)
        if sum(leaf.nbytes for leaf in buckets[-1]) >= size:
            buckets.append([])
    return [_vector(bucket) for bucket in buckets if bucket]
