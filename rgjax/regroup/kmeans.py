"""K-means in JAX by scikit-learn's rules: greedy k-means++ (Arthur & Vassilvitskii 2007), Lloyd, relocation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class KMeansResult(NamedTuple):
    """labels [N] int32, centers [k, D], inertia (sum of squared distances), n_iter."""

    labels: np.ndarray
    centers: np.ndarray
    inertia: float
    n_iter: int


def kmeans(x, k: int, *, seed: int = 0, n_init: int = 10, max_iter: int = 300, tol: float = 1e-4, init=None):
    """Cluster `x` [N, D] into `k` groups; `init` [k, D] gives the first centres, else the best of `n_init` starts.

    Raises ValueError for k outside 1..N and for values that are not finite.
    """
    x = np.asarray(x)
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k} clusters of {len(x)} points")
    if not np.isfinite(x).all():
        raise ValueError("K-means needs finite features")
    mean = x.mean(axis=0)
    x = x - mean
    tolerance = np.asarray(tol * x.var(axis=0).mean(), x.dtype)
    if init is not None:
        runs = [_lloyd(x, jnp.asarray(init - mean, x.dtype), max_iter, tolerance)]
    else:
        keys = jax.random.split(jax.random.key(seed), n_init)
        runs = [_lloyd(x, _plus_plus(key, x, k), max_iter, tolerance) for key in keys]
    labels, centers, inertia, n_iter = min(runs, key=lambda run: float(run[2]))
    return KMeansResult(np.asarray(labels), np.asarray(centers) + mean, float(inertia), int(n_iter))


def _distances(x, centers):
    """Squared distances less |x|^2, [k, N]: the rank of the centres does not depend on it."""
    products = jnp.matmul(centers, x.T, precision=jax.lax.Precision.HIGHEST)
    return (centers * centers).sum(axis=1)[:, None] - 2 * products


@partial(jax.jit, static_argnums=2)
def _plus_plus(key, x, k):
    first_key, key = jax.random.split(key)
    trials = 2 + int(np.log(k))
    first = jax.random.randint(first_key, (), 0, len(x))
    centers = jnp.zeros((k, x.shape[1]), x.dtype).at[0].set(x[first])
    squares = (x * x).sum(axis=1)
    closest = jnp.maximum(_distances(x, x[first][None])[0] + squares, 0)

    def add(i, carry):
        centers, closest = carry
        sums = jnp.cumsum(closest)
        drawn = jax.random.uniform(jax.random.fold_in(key, i), (trials,), x.dtype) * sums[-1]
        rows = jnp.minimum(jnp.searchsorted(sums, drawn, side="right"), len(x) - 1)
        nearer = jnp.minimum(closest[None], jnp.maximum(_distances(x, x[rows]) + squares[None], 0))
        best = nearer.sum(axis=1).argmin()
        return centers.at[i].set(x[rows[best]]), nearer[best]

    return jax.lax.fori_loop(1, k, add, (centers, closest))[0]


@jax.jit
def _lloyd(x, centers, max_iter, tolerance):
    k = len(centers)

    def assign(centers):
        distances = _distances(x, centers)
        # The lowest index among equals; argmin is a slow variadic reduction on a CPU.
        nearest = distances == distances.min(axis=0, keepdims=True)
        index = jnp.arange(k, dtype=jnp.int32)[:, None]
        return jnp.where(nearest, jnp.broadcast_to(index, nearest.shape), k).min(axis=0)

    def update(centers, labels):
        sums = jax.ops.segment_sum(x, labels, k)
        sizes = jax.ops.segment_sum(jnp.ones(len(x), x.dtype), labels, k)
        far = ((x - centers[labels]) ** 2).sum(axis=1)
        empty = (sizes == 0).sum()

        def relocate(i, carry):
            sums, sizes, far = carry
            point, to = far.argmax(), jnp.nonzero(sizes0 == 0, size=k, fill_value=0)[0][i]
            donor = labels[point]
            sums = sums.at[donor].add(-x[point]).at[to].set(x[point])
            return sums, sizes.at[donor].add(-1).at[to].set(1), far.at[point].set(-1)

        sizes0, count = sizes, jnp.where(far.max() > 0, empty, 0)
        sums, sizes, _ = jax.lax.fori_loop(0, count, relocate, (sums, sizes, far))
        means = sums / jnp.maximum(sizes, 1)[:, None]
        return jnp.where((sizes > 0)[:, None], means, means[sizes.argmax()][None])

    def proceed(carry):
        _, _, i, strict, shift = carry
        return (i < max_iter) & ~strict & ((i == 0) | (shift > tolerance))

    def iterate(carry):
        centers, before, i, _, _ = carry
        labels = assign(centers)
        moved = update(centers, labels)
        return moved, labels, i + 1, (labels == before).all(), ((moved - centers) ** 2).sum()

    start = (centers, jnp.full(len(x), -1, jnp.int32), 0, False, jnp.zeros((), x.dtype))
    centers, labels, n_iter, strict, _ = jax.lax.while_loop(proceed, iterate, start)
    labels = jnp.where(strict, labels, assign(centers))
    return labels, centers, ((x - centers[labels]) ** 2).sum(), n_iter
