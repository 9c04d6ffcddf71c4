"""How parameters are stored in training: as a tree of arrays or as one vector."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
    """How parameters, gradients and moments are stored on the device.

    Attributes:
        flatten: a TrainState, or a part of it, from trees of arrays to what is stored.
        unflatten: the inverse.
        select: `(condition, update, keep)`: the result of one of two functions.
    """

    flatten: Callable[[Any], Any]
    unflatten: Callable[[Any], Any]
    select: Callable[[jax.Array, Callable, Callable], Any]


# `cond` avoids copying the optimizer state at every step, which `where` would.
TREES = Layout(lambda tree: tree, lambda tree: tree, jax.lax.cond)


def layout_for(platform: str, params: Any) -> Layout:
    """One vector on GPUs, trees elsewhere.

    On a GPU, updating a hundred arrays takes a hundred small kernels.
    """
    return one_vector(params) if platform in ("gpu", "cuda") else TREES


def one_vector(params: Any) -> Layout:
    """Store all of `params` as one vector, and so their gradients and moments."""
    leaves, structure = jax.tree.flatten(params)
    shapes = [leaf.shape for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves]).tolist()

    def is_params(tree):
        return jax.tree.structure(tree) == structure

    def join(tree):
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]) if is_params(tree) else tree

    def split(stored):
        if stored.shape != (ends[-1],):
            return stored
        slices = zip([0, *ends], ends, shapes, strict=False)
        return jax.tree.unflatten(structure, [stored[start:end].reshape(shape) for start, end, shape in slices])

    return Layout(
        jax.jit(lambda tree: jax.tree.map(join, tree, is_leaf=is_params)),
        jax.jit(lambda tree: jax.tree.map(split, tree)),
        # On a GPU `cond` would wait for the host.
        lambda condition, update, keep: jax.tree.map(partial(jnp.where, condition), update(), keep()),
    )
