"""Samplers, which draw a pool of training examples once per run.

Every epoch draws from the pool on the device. A sampler maps the classes and the clusters of the training examples and
a seed to their indices. To add one, write its function here and its entry in `SAMPLERS`, and add its name and its
method to `config/`.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, Int32, Integer

Labels: TypeAlias = Integer[np.ndarray, " N"]
Clusters: TypeAlias = Integer[np.ndarray, " N_real"]  # synthetic examples follow the real ones and have no cluster
Pool: TypeAlias = Int32[np.ndarray, " P"]


def all_examples(labels: Labels, clusters: Clusters, seed: int) -> Pool:
    """Every example once."""
    return np.arange(len(labels), dtype=np.int32)


def random_oversampling(labels: Labels, clusters: Clusters, seed: int) -> Pool:
    """ROS: copies of each class and a random remainder, to the size of the largest."""
    rng, size = np.random.default_rng(seed), np.bincount(labels).max()
    pools = []
    for members in _members(labels):
        copies, rest = divmod(size, len(members))
        pools += [np.tile(members, copies), rng.choice(members, rest, replace=False)]
    return np.concatenate(pools).astype(np.int32)


def random_undersampling(labels: Labels, clusters: Clusters, seed: int) -> Pool:
    """RUS: as many random examples of each class as the smallest class has."""
    return clustered_undersampling(labels, labels, seed)


def clustered_undersampling(labels: Labels, clusters: Clusters, seed: int) -> Pool:
    """RUSC: like RUS, but drawn evenly over the clusters of a class.

    The method is after Lehmann & Ebner (2022). A cluster smaller than its quota is exhausted; larger ones fill the
    rest.
    """
    rng = np.random.default_rng(seed)
    by_class = _members(labels)
    size = min(map(len, by_class))
    pools = []
    for members in by_class:
        # Taking the shuffled examples of the clusters in turn gives every cluster the same share until it is empty.
        turn = np.empty(len(members), np.int64)
        for in_cluster in _members(clusters[members]):
            turn[in_cluster] = rng.permutation(len(in_cluster))
        pools.append(members[np.lexsort((rng.random(len(members)), turn))[:size]])
    return np.concatenate(pools).astype(np.int32)


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """Indices of the examples of each label."""
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]


SAMPLERS = {
    "none": all_examples,
    "ros": random_oversampling,
    "rus": random_undersampling,
    "rusc": clustered_undersampling,
    "deepsmote": all_examples,  # the synthetic ones included
}


def cycled(pool: Pool, draws: int) -> Int32[np.ndarray, " cycled"]:
    """The pool, repeated as a whole until it has at least `draws` examples."""
    return np.resize(pool, -(-draws // len(pool)) * len(pool))


def epoch_rows(
    key: jax.Array, pool: Int[Array, " P"], draws: int, size: Int[ArrayLike, ""] | None = None
) -> Int[Array, " {draws}"]:
    """The first `draws` examples of independent permutations of the pool.

    Args:
        key: of the draw.
        pool: what is drawn from; with `size`, a `cycled` pool.
        draws: number of examples.
        size: the pool's traced size before it was cycled. What follows the first `draws` examples of a cycled pool
            changes nothing, so that pools of different sizes share a program.
    """
    if size is not None:
        slots = jnp.arange(len(pool), dtype=jnp.int32)
        bits = jax.random.bits(key, (len(pool),))  # those of a slot depend on no other slot
        return jax.lax.sort((slots // size, bits, pool), num_keys=2)[2][:draws]
    passes = -(-draws // len(pool))
    keys = jax.random.split(key, passes)
    return jnp.concatenate([jax.random.permutation(k, pool) for k in keys])[:draws]
