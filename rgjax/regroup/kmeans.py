"""K-means in JAX by scikit-learn's rules: greedy k-means++ (Arthur & Vassilvitskii 2007), Lloyd, relocation.

Rows are spread over all devices. Points and centers may be padded, so that classes of every size share one compiled
program; the numbers of real points `n` and of real centers `k` are traced.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

HIGHEST = jax.lax.Precision.HIGHEST
MEMORY = 2**27  # floats for the distances of k-means++ candidates


class KMeansResult(NamedTuple):
    """labels [N] int32, centers [k, D] float32, inertia (sum of squared distances), n_iter."""

    labels: np.ndarray
    centers: np.ndarray
    inertia: float
    n_iter: int


class Form(NamedTuple):
    """How many distances are computed at a time, and whether a product gives the clusters' sums, or a scatter."""

    chunk: int
    product: bool


def _form() -> Form:
    """On a CPU a chunk's distances stay in the cache. Elsewhere large chunks keep the device busy and within its
    memory, and a scatter would be slow and add in an arbitrary order."""
    return Form(2**18, False) if jax.default_backend() == "cpu" else Form(2**27, True)


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("data",))


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
    """Cluster `x` [N, D] into `k` groups; `init` [k, D] gives the first centers, else the best of `n_init` starts.

    Calls with an equal `pad_to` = (points, centers) and D run the same compiled program. Every process of a
    multi-process run passes the same arguments. Raises ValueError for k outside 1..N and for values not finite.
    """
    x = checked(x, k)
    n, dim = x.shape
    points, num_centers = pad_to or (n, k)
    form = _form()
    mesh = _mesh()
    chunks = mesh.size * -(-points * num_centers // (form.chunk * mesh.size))
    mean = x.mean(axis=0)
    centered = aligned_zeros((chunks, -(-points // chunks), dim))
    np.subtract(x, mean, out=centered.reshape(-1, dim)[:n])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.make_array_from_callback(centered.shape, rows, centered.__getitem__)
    limits = np.int32(n), np.int32(k), np.int32(max_iter), np.float32(tol)
    if init is None:
        trials = np.int32(2 + int(np.log(k)))  # scikit-learn's number of candidates for each new center
        start = np.uint32(seed % 2**32), trials
        run = _best_of(spread, *limits, *start, n_init, num_centers, mesh, form)
    else:
        first = np.zeros((num_centers, dim), np.float32)
        first[:k] = init - mean
        run = _from(spread, *limits, first, mesh, form)
    labels, found, inertia, n_iter = jax.device_get(run)
    return KMeansResult(labels[:n], found[:k] + mean, float(inertia), int(n_iter))


def checked(x: np.ndarray, k: int) -> np.ndarray:
    """`x` in float32. Raises ValueError for k outside 1..N and for values not finite."""
    x = np.asarray(x, np.float32)
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k} clusters of {len(x)} points")
    if not np.isfinite(x).all():
        raise ValueError("K-means needs finite features")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.square(x - x.mean(axis=0)).sum()):
            raise ValueError("the features' squares are beyond float32: scale them")
    return x


def aligned_zeros(shape):
    """JAX takes over a NumPy array without a copy only if it begins at a multiple of 64 bytes."""
    count = int(np.prod(shape))
    flat = np.zeros(count + 16, np.float32)
    return flat[-flat.ctypes.data % 64 // 4 :][:count].reshape(shape)


def _on_rows(function, mesh, x, *others):
    """`function(x, *others)` on all devices, each with its own chunks of `x`; the results are equal everywhere."""
    everywhere = PartitionSpec()
    specs = (PartitionSpec("data"), *(everywhere for _ in others))
    # Unchecked: the checker does not know that what all devices gathered is equal.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)(x, *others)


@partial(jax.jit, static_argnames=("n_init", "num_centers", "mesh", "form"))
def _best_of(x, n, k, max_iter, tol, seed, trials, n_init, num_centers, mesh, form):
    max_trials = 2 + int(np.log(num_centers))

    def run(x, n, k, max_iter, tol, seed, trials):
        cloud = _cloud(x, n)
        keys = jax.random.split(jax.random.key(seed), n_init)
        # k-means++ reads all points for a few candidates: starts that go together share the reading (1.8x faster on
        # a CPU). Lloyd computes more than it reads; together, starts wait for the slowest: 1.5 to 2x slower.
        together = max(1, min(n_init, MEMORY // (max_trials * cloud.real.size)))
        begin = partial(
            _plus_plus, cloud=cloud, n=n, k=k, trials=trials, num_centers=num_centers, max_trials=max_trials
        )
        starts = jax.lax.map(begin, keys, batch_size=together)
        runs = jax.lax.map(lambda centers: _lloyd(cloud, centers, n, k, max_iter, tol, form), starts)
        best = runs[2].argmin()
        return jax.tree.map(lambda leaf: leaf[best], runs)

    return _on_rows(run, mesh, x, n, k, max_iter, tol, seed, trials)


@partial(jax.jit, static_argnames=("mesh", "form"))
def _from(x, n, k, max_iter, tol, first, mesh, form):
    def run(x, n, k, max_iter, tol, first):
        return _lloyd(_cloud(x, n), first, n, k, max_iter, tol, form)

    return _on_rows(run, mesh, x, n, k, max_iter, tol, first)


class Cloud(NamedTuple):
    """One device's rows x [chunks, size, D], which of them are `real`, and their squared lengths [chunks, size]."""

    x: jax.Array
    real: jax.Array
    squares: jax.Array


def _cloud(x, n):
    chunks, size, _ = x.shape
    rows = jnp.arange(chunks * size, dtype=jnp.int32) + jax.lax.axis_index("data") * chunks * size
    return Cloud(x, (rows < n).reshape(chunks, size), (x * x).sum(axis=2))


def _distances(x, centers, k):
    """Squared distances less |x|^2, [num_centers, N]: which does not change their order. Infinite from `k`."""
    squares = jnp.where(jnp.arange(len(centers), dtype=jnp.int32) < k, (centers * centers).sum(axis=1), jnp.inf)
    return squares[:, None] + jnp.matmul(-2 * centers, x.T, precision=HIGHEST)


def _rows(cloud, rows):
    """The rows [T, D] of all devices' x that have these numbers [T]."""
    x = cloud.x.reshape(-1, cloud.x.shape[-1])
    local = rows - jax.lax.axis_index("data") * len(x)
    mine = (local >= 0) & (local < len(x))
    return jax.lax.psum(jnp.where(mine[:, None], x[jnp.where(mine, local, 0)], 0), "data")


def _everywhere(values):
    """The values [N] of all devices' rows, from those of one device's."""
    return jax.lax.all_gather(values.reshape(-1), "data", tiled=True)


def _plus_plus(key, cloud, n, k, trials, num_centers, max_trials):
    """First centers [num_centers, D]: each new one is the best of some candidates drawn by squared distance."""
    first_key, key = jax.random.split(key)
    x, real, squares = cloud.x.reshape(-1, cloud.x.shape[-1]), cloud.real.reshape(-1), cloud.squares.reshape(-1)
    first = _rows(cloud, jax.random.randint(first_key, (1,), 0, n))
    centers = jnp.zeros((num_centers, x.shape[1]), x.dtype).at[0].set(first[0])

    def closest_to(candidates):
        return jnp.where(real[None], jnp.maximum(_distances(x, candidates, max_trials) + squares[None], 0), 0)

    def add(i, carry):
        centers, closest = carry
        sums = jnp.cumsum(_everywhere(closest))
        draw_keys = jax.random.split(jax.random.fold_in(key, i), max_trials)
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(draw_keys) * sums[-1]
        rows = jnp.minimum(jnp.searchsorted(sums, drawn, side="right").astype(jnp.int32), n - 1)
        candidates = _rows(cloud, rows)
        nearer = jnp.minimum(closest[None], closest_to(candidates))
        tried = jnp.arange(max_trials, dtype=jnp.int32) < trials
        best = jnp.where(tried, jax.lax.psum(nearer.sum(axis=1), "data"), jnp.inf).argmin()
        return centers.at[i].set(candidates[best]), nearer[best]

    return jax.lax.fori_loop(1, k, add, (centers, closest_to(first)[0]))[0]


def _lloyd(cloud, centers, n, k, max_iter, tol, form):
    """(labels [N], centers [num_centers, D], inertia, n_iter); what is padded has no weight and no members."""
    num_centers = len(centers)
    index = jnp.arange(num_centers, dtype=jnp.int32)[:, None]

    # A loop copies the rows of each round, which a single one does without.
    over_chunks = partial(jax.lax.scan, unroll=len(cloud.x) == 1)

    def nearest(x, real, centers):
        distances = _distances(x, centers, k)
        # The lowest index among equals; argmin is a slow variadic reduction on a CPU.
        ties = jnp.where(
            distances == distances.min(axis=0)[None], jnp.broadcast_to(index, distances.shape), num_centers
        )
        return jnp.where(real, ties.min(axis=0), num_centers)

    def group_sums(x, labels):
        if form.product:
            return jnp.matmul((labels[None] == index).astype(x.dtype), x, precision=HIGHEST)
        return jax.ops.segment_sum(x, labels, num_centers)

    def sweep(centers):
        """The labels [chunks, size], and the sums [k, D] and sizes [k] of all clusters."""

        def chunk(sums, rows):
            x, real = rows
            labels = nearest(x, real, centers)
            return sums + group_sums(x, labels), labels

        sums, labels = over_chunks(chunk, jnp.zeros_like(centers), (cloud.x, cloud.real))
        sizes = jnp.bincount(labels.reshape(-1), length=num_centers)  # without what is padded, labeled `num_centers`
        return labels, *jax.lax.psum((sums, sizes.astype(sums.dtype)[:, None]), "data")

    def errors(centers, labels):
        """Squared distances [chunks, size] to the own center."""

        def chunk(_, rows):
            x, labels = rows
            return None, ((x - centers[labels]) ** 2).sum(axis=1)

        return jnp.where(cloud.real, over_chunks(chunk, None, (cloud.x, labels))[1], 0)

    def relocate(centers, labels, sums, sizes):
        """The points farthest from their centers become the centers of the empty clusters."""
        empty = (sizes[:, 0] == 0) & (index[:, 0] < k)
        far, points = jax.lax.top_k(_everywhere(errors(centers, labels)), num_centers)
        moves = jnp.where((far[0] > 0) & (index[:, 0] < empty.sum(dtype=jnp.int32)), 1.0, 0.0)[:, None]
        moved = _rows(cloud, points) * moves
        donors = _everywhere(labels)[points]
        into = jnp.nonzero(empty, size=num_centers, fill_value=num_centers)[0]
        return tuple(total.at[donors].add(-part).at[into].add(part) for total, part in ((sums, moved), (sizes, moves)))

    def proceed(carry):
        _, _, i, strict, shift = carry
        return (i < max_iter) & ~strict & ((i == 0) | (shift > tolerance))

    def iterate(carry):
        centers, before, i, _, _ = carry
        labels, sums, sizes = sweep(centers)
        some_empty = ((sizes[:, 0] == 0) & (index[:, 0] < k)).any()
        sums, sizes = jax.lax.cond(
            some_empty, relocate, lambda centers, labels, *totals: totals, centers, labels, sums, sizes
        )
        means = sums / jnp.maximum(sizes, 1)
        moved = jnp.where(sizes > 0, means, means[sizes[:, 0].argmax()][None])
        shift = jnp.where(index < k, (moved - centers) ** 2, 0).sum()
        strict = jax.lax.psum((labels != before).sum(dtype=jnp.int32), "data") == 0
        return moved, labels, i + 1, strict, shift

    tolerance = tol * jax.lax.psum(cloud.squares.sum(), "data") / (n.astype(tol.dtype) * centers.shape[1])
    start = (centers, jnp.full(cloud.real.shape, -1, jnp.int32), jnp.int32(0), False, jnp.zeros((), centers.dtype))
    centers, labels, n_iter, strict, _ = jax.lax.while_loop(proceed, iterate, start)
    labels = jax.lax.cond(strict, lambda: labels, lambda: sweep(centers)[0])
    inertia = jax.lax.psum(errors(centers, labels).sum(), "data")
    return _everywhere(labels), centers, inertia, n_iter
