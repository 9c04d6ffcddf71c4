"""Index samplers: a pool of row positions, drawn once a run; every epoch draws from the pool on the device."""

import jax
import jax.numpy as jnp
import numpy as np


def all_rows(labels: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """Every row of `labels` [N] once."""
    return np.arange(len(labels), dtype=np.int32)


def random_oversampling(labels: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """ROS: whole copies of each class and a random remainder, up to the size of the largest class."""
    rng, size = np.random.default_rng(seed), np.bincount(labels).max()
    pools = []
    for rows in _rows_by(labels):
        copies, rest = divmod(size, len(rows))
        pools += [np.tile(rows, copies), rng.choice(rows, rest, replace=False)]
    return np.concatenate(pools).astype(np.int32)


def random_undersampling(labels: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """RUS: as many random rows of each class as the smallest class has."""
    return clustered_undersampling(labels, labels, seed)


def clustered_undersampling(labels: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """RUSC: as RUS, drawn evenly over the clusters [N] of a class (after Lehmann & Ebner 2022).

    What a small cluster cannot give, the larger ones give in its stead.
    """
    rng = np.random.default_rng(seed)
    by_class = _rows_by(labels)
    size = min(map(len, by_class))
    pools = []
    for rows in by_class:
        # Dealing the clusters' shuffled rows out in turn gives every cluster the same share until it is empty.
        turn = np.empty(len(rows), np.int64)
        for members in _rows_by(clusters[rows]):
            turn[members] = rng.permutation(len(members))
        pools.append(rows[np.lexsort((rng.random(len(rows)), turn))[:size]])
    return np.concatenate(pools).astype(np.int32)


def _rows_by(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]


SAMPLERS = {
    "none": all_rows,
    "ros": random_oversampling,
    "rus": random_undersampling,
    "rusc": clustered_undersampling,
    "deepsmote": all_rows,  # of the training rows and the synthetic ones that were added to them
}


def epoch_rows(key: jax.Array, pool: jax.Array, draws: int) -> jax.Array:
    """The first `draws` of as many independent permutations of `pool` [P] as are needed: int32 [draws]."""
    passes = -(-draws // len(pool))
    keys = jax.random.split(key, passes)
    return jnp.concatenate([jax.random.permutation(k, pool) for k in keys])[:draws]
