"""K-means in JAX by scikit-learn's rules: greedy k-means++ (Arthur & Vassilvitskii 2007), Lloyd, relocation.

Points and centres may be padded, so that classes of every size share one compiled program; the numbers of
real points `n` and of real centres `k` are traced.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class KMeansResult(NamedTuple):
    """labels [N] int32, centers [k, D] float32, inertia (sum of squared distances), n_iter."""

    labels: np.ndarray
    centers: np.ndarray
    inertia: float
    n_iter: int


def kmeans(
    x: np.ndarray,
    k: int,
    *,
    seed: int = 0,
    n_init: int = 10,
    max_iter: int = 300,
    tol: float = 1e-4,
    init: np.ndarray | None = None,
    pad_to: tuple[int, int] | None = None,
) -> KMeansResult:
    """Cluster `x` [N, D] into `k` groups; `init` [k, D] gives the first centres, else the best of `n_init` starts.

    Calls with an equal `pad_to` = (points, centres) and D run the same compiled program. Raises ValueError for
    k outside 1..N and for values that are not finite.
    """
    x = np.asarray(x, np.float32)
    n = len(x)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} clusters of {n} points")
    if not np.isfinite(x).all():
        raise ValueError("K-means needs finite features")
    points, centres = pad_to or (n, k)
    mean = x.mean(axis=0)
    tolerance = np.float32(tol * x.var(axis=0).mean())
    padded = np.zeros((points, x.shape[1]), np.float32)
    padded[:n] = x - mean
    limits = np.int32(n), np.int32(k), np.int32(max_iter), tolerance
    if init is None:
        keys = jax.random.split(jax.random.key(seed), n_init)
        trials = np.int32(2 + int(np.log(k)))  # scikit-learn's number of candidates for each new centre
        run = _best_of(keys, padded, *limits, trials, centres, 2 + int(np.log(centres)))
    else:
        first = np.zeros((centres, x.shape[1]), np.float32)
        first[:k] = init - mean
        run = _lloyd(padded, first, *limits)
    labels, found, inertia, n_iter = jax.device_get(run)
    return KMeansResult(labels[:n], found[:k] + mean, float(inertia), int(n_iter))


@partial(jax.jit, static_argnames=("centres", "max_trials"))
def _best_of(keys, x, n, k, max_iter, tolerance, trials, centres, max_trials):
    def start(key):
        return _lloyd(x, _plus_plus(key, x, n, k, trials, centres, max_trials), n, k, max_iter, tolerance)

    runs = jax.lax.map(start, keys)
    best = runs[2].argmin()
    return jax.tree.map(lambda leaf: leaf[best], runs)


def _distances(x, centers):
    """Squared distances less |x|^2, [k, N]: the rank of the centres does not depend on it."""
    products = jnp.matmul(centers, x.T, precision=jax.lax.Precision.HIGHEST)
    return (centers * centers).sum(axis=1)[:, None] - 2 * products


def _plus_plus(key, x, n, k, trials, centres, max_trials):
    """First centres [centres, D]: each new one is the best of some candidates drawn by squared distance."""
    first_key, key = jax.random.split(key)
    first = jax.random.randint(first_key, (), 0, n)
    centers = jnp.zeros((centres, x.shape[1]), x.dtype).at[0].set(x[first])
    squares = (x * x).sum(axis=1)
    real = jnp.arange(len(x), dtype=jnp.int32) < n

    def closest_to(rows):
        return jnp.where(real[None], jnp.maximum(_distances(x, x[rows]) + squares[None], 0), 0)

    def add(i, carry):
        centers, closest = carry
        sums = jnp.cumsum(closest)
        draw_keys = jax.random.split(jax.random.fold_in(key, i), max_trials)
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(draw_keys) * sums[-1]
        rows = jnp.minimum(jnp.searchsorted(sums, drawn, side="right").astype(jnp.int32), n - 1)
        nearer = jnp.minimum(closest[None], closest_to(rows))
        tried = jnp.arange(max_trials, dtype=jnp.int32) < trials
        best = jnp.where(tried, nearer.sum(axis=1), jnp.inf).argmin()
        return centers.at[i].set(x[rows[best]]), nearer[best]

    return jax.lax.fori_loop(1, k, add, (centers, closest_to(first[None])[0]))[0]


@jax.jit
def _lloyd(x, centers, n, k, max_iter, tolerance):
    """(labels [N], centers, inertia, n_iter); what is padded has no weight and no members."""
    rows = jnp.arange(len(x), dtype=jnp.int32)
    index = jnp.arange(len(centers), dtype=jnp.int32)[:, None]
    real = rows < n

    def assign(centers):
        distances = jnp.where(index < k, _distances(x, centers), jnp.inf)
        # The lowest index among equals; argmin is a slow variadic reduction on a CPU.
        nearest = distances == distances.min(axis=0, keepdims=True)
        return jnp.where(nearest, jnp.broadcast_to(index, nearest.shape), len(centers)).min(axis=0)

    def update(centers, labels):
        sums = jax.ops.segment_sum(x, labels, len(centers))
        sizes = jax.ops.segment_sum(real.astype(x.dtype), labels, len(centers))
        far = jnp.where(real, ((x - centers[labels]) ** 2).sum(axis=1), -1)
        empty = (sizes == 0) & (index[:, 0] < k)
        into = jnp.nonzero(empty, size=len(centers), fill_value=0)[0]

        def relocate(i, carry):
            sums, sizes, far = carry
            point = far.argmax()
            donor, to = labels[point], into[i]
            sums = sums.at[donor].add(-x[point]).at[to].set(x[point])
            return sums, sizes.at[donor].add(-1).at[to].set(1), far.at[point].set(-1)

        count = jnp.where(far.max() > 0, empty.sum(dtype=jnp.int32), 0)
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
        shift = jnp.where(index < k, (moved - centers) ** 2, 0).sum()
        return moved, labels, i + 1, ((labels == before) | ~real).all(), shift

    start = (centers, jnp.full(len(x), -1, jnp.int32), jnp.int32(0), False, jnp.zeros((), x.dtype))
    centers, labels, n_iter, strict, _ = jax.lax.while_loop(proceed, iterate, start)
    labels = jnp.where(strict, labels, assign(centers))
    inertia = jnp.where(real, ((x - centers[labels]) ** 2).sum(axis=1), 0).sum()
    return labels, centers, inertia, n_iter
