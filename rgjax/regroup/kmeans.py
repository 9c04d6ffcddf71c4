"""K-means in JAX by the rules of scikit-learn.

These are greedy k-means++, Lloyd's algorithm, and the relocation of empty clusters. The points are spread over all
devices. Points and centers may be padded, so that classes of every size share one program: their numbers are traced.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, Shaped

from rgjax.regroup.forks import require_unforked

HIGHEST = jax.lax.Precision.HIGHEST
MEMORY = 2**27  # floats for the distances to the candidates of k-means++


class KMeansResult(NamedTuple):
    """A clustering, its inertia (sum of squared distances) and iterations."""

    labels: Int[np.ndarray, " N"]
    centers: Float[np.ndarray, "k D"]
    inertia: float
    n_iter: int


@dataclass(frozen=True)
class KMeansSettings:
    """Settings of K-means, named as in scikit-learn.

    Attributes:
        seed: of the first centers.
        n_init: restarts, of which the result of the lowest inertia is returned.
        max_iter: iterations of Lloyd's algorithm, at most.
        tol: stop when the centers' squared shift is at most `tol` times the mean variance of the features.
        pad_to: (points, centers) that the arrays are padded to. Calls of equal `pad_to` and D share one program.
    """

    seed: int = 0
    n_init: int = 10
    max_iter: int = 300
    tol: float = 1e-4
    pad_to: tuple[int, int] | None = None


DEFAULTS = KMeansSettings()


class Form(NamedTuple):
    """How distances and sums are computed."""

    chunk: int  # distances at a time,
    rows: int  # of a multiple of so many points
    product: bool  # sums of clusters by a matrix product, or else by a scatter
    precision: Any = HIGHEST  # of the products in Lloyd's algorithm


class Problem(NamedTuple):
    """Traced scalars: points and clusters without padding, iterations, tolerance."""

    n: Any  # int32
    k: Any
    max_iter: Any
    tol: Any  # float32


class Layout(NamedTuple):
    """What is compiled in: restarts, centers with padding, devices, the form."""

    n_init: int
    num_centers: int
    mesh: Mesh
    form: Form


class Points(NamedTuple):
    """One device's points x [chunks, size, D].

    `real` tells them from padding [chunks, size], and `squares` are their squared norms [chunks, size].
    """

    x: jax.Array
    real: jax.Array
    squares: jax.Array


def _form(distances: int) -> Form:
    """Choose the form of the program for a CPU or an accelerator.

    On a CPU, a chunk's distances stay in the cache of a core, and few are one chunk, as a loop copies the points.
    Elsewhere, chunks and points that fill no whole tiles would be copied; so all points are one chunk if its distances
    fit into a quarter of the memory. Off the CPU a scatter would be slow, and would add in an arbitrary order.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return Form(2**18 if distances <= 2**18 else 2**16, 1, False)
    limit = (device.memory_stats() or {}).get("bytes_limit", 2**33)
    chunk = min(2**30, 2 ** int(np.log2(limit / 16)))
    # Three products of TF32's halves of the operands are as exact as float32 and run on tensor cores, since Ampere.
    ampere = re.fullmatch(r"(?:[89]|\d\d)\.\d", str(getattr(device, "compute_capability", "")))
    return Form(chunk, 1024, True, jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if ampere else HIGHEST)


def _mesh() -> Mesh:
    require_unforked()
    return Mesh(np.array(jax.devices()), ("data",))


def kmeans(
    x: Shaped[np.ndarray, "N D"],
    k: int,
    settings: KMeansSettings = DEFAULTS,
    *,
    init: np.ndarray | None = None,
) -> KMeansResult:
    """Cluster points by K-means (Lloyd 1982; Arthur & Vassilvitskii 2007).

    All processes of a multi-process run pass the same arguments and cluster together.

    Args:
        x: the points.
        k: the number of clusters.
        settings: restarts, stopping rule, padding.
        init: the first centers [k, D]; None: the best of `settings.n_init` starts by k-means++.

    Raises:
        ValueError: for k outside 1..N, and for values that are not finite or whose squares overflow float32.
    """
    x = checked(x, k)
    n, dim = x.shape
    num_points, num_centers = settings.pad_to or (n, k)
    layout = Layout(settings.n_init, num_centers, _mesh(), _form(num_points * num_centers))

    # Center the points, and spread them over the devices in chunks.
    shards = layout.mesh.size
    chunks = shards * -(-num_points * num_centers // (layout.form.chunk * shards))
    size = -(-num_points // (chunks * layout.form.rows)) * layout.form.rows
    mean = x.mean(axis=0)
    centered = aligned_zeros((chunks, size, dim))
    np.subtract(x, mean, out=centered.reshape(-1, dim)[:n])
    sharding = NamedSharding(layout.mesh, PartitionSpec("data"))
    sharded = jax.make_array_from_callback(centered.shape, sharding, centered.__getitem__)

    # Run the compiled program, and drop the padding.
    problem = Problem(np.int32(n), np.int32(k), np.int32(settings.max_iter), np.float32(settings.tol))
    if init is None:
        candidates = np.int32(2 + int(np.log(k)))  # scikit-learn's number for each new center
        run = _best_of(sharded, problem, np.uint32(settings.seed % 2**32), candidates, layout=layout)
    else:
        first = np.zeros((num_centers, dim), np.float32)
        first[:k] = init - mean
        run = _from(sharded, problem, first, layout=layout)
    labels, centers, inertia, n_iter = jax.device_get(run)
    return KMeansResult(labels[:n], centers[:k] + mean, float(inertia), int(n_iter))


def checked(x: np.ndarray, k: int) -> np.ndarray:
    """The points in float32. Raises ValueError as `kmeans` does."""
    x = np.asarray(x, np.float32)
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k} clusters of {len(x)} points; k must be 1 to {len(x)}")
    if not np.isfinite(np.vdot(x, x)):  # in one pass over memory; only then the reason is sought
        if not np.isfinite(x).all():
            raise ValueError("K-means needs finite features; remove NaN and infinity")
        with np.errstate(over="ignore"):
            if not np.isfinite(np.square(x - x.mean(axis=0)).sum()):
                raise ValueError("the squares of the features overflow float32; scale the features")
    return x


def aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Float32 zeros at a multiple of 64 bytes: JAX uses such an array without a copy."""
    count = int(np.prod(shape))
    flat = np.zeros(count + 16, np.float32)
    return flat[-flat.ctypes.data % 64 // 4 :][:count].reshape(shape)


# The compiled programs. Everything below is traced and runs on each device with its own chunks of points.


@partial(jax.jit, static_argnames="layout")
def _best_of(x, problem: Problem, seed, candidates, *, layout: Layout):
    """The result of the lowest inertia among `n_init` starts."""
    num_centers = layout.num_centers
    max_candidates = 2 + int(np.log(num_centers))

    def run(x, problem, seed, candidates):
        points = _points(x, problem.n)
        keys = jax.random.split(jax.random.key(seed), layout.n_init)
        # k-means++ reads all points for a few candidates: starts that go together share the reading (1.8x faster on
        # a CPU). Lloyd computes more than it reads; together, starts wait for the slowest: 1.5 to 2x slower.
        together = max(1, min(layout.n_init, MEMORY // (max_candidates * points.real.size)))

        def start(key):
            return _plus_plus(key, points, problem, candidates, num_centers)

        starts = jax.lax.map(start, keys, batch_size=together)
        runs = jax.lax.map(lambda centers: _lloyd(points, centers, problem, layout.form), starts)
        best = runs[2].argmin()
        return jax.tree.map(lambda leaf: leaf[best], runs)

    return _on_devices(run, layout.mesh, x, problem, seed, candidates)


@partial(jax.jit, static_argnames="layout")
def _from(x, problem: Problem, first, *, layout: Layout):
    """The result from given first centers."""

    def run(x, problem, first):
        return _lloyd(_points(x, problem.n), first, problem, layout.form)

    return _on_devices(run, layout.mesh, x, problem, first)


def _on_devices(function, mesh, x, *replicated):
    """Run `function(x, *replicated)` on all devices, each with its chunks of `x`.

    The results are equal on all devices.
    """
    everywhere = PartitionSpec()
    specs = (PartitionSpec("data"), *(everywhere for _ in replicated))
    # Unchecked: the checker does not know that gathered values are equal on all devices.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)(x, *replicated)


def _points(x, n) -> Points:
    chunks, size, _ = x.shape
    index = jnp.arange(chunks * size, dtype=jnp.int32) + jax.lax.axis_index("data") * chunks * size
    return Points(x, (index < n).reshape(chunks, size), (x * x).sum(axis=2))


def _distances(x, centers, k, precision=HIGHEST):
    """Squared distances less |x|^2 [num_centers, N]; infinite for padded centers."""
    squares = jnp.where(jnp.arange(len(centers), dtype=jnp.int32) < k, (centers * centers).sum(axis=1), jnp.inf)
    return squares[:, None] + jnp.matmul(-2 * centers, x.T, precision=precision)


def _take(points: Points, indices):
    """The points [T, D] at global indices [T], on every device."""
    x = points.x.reshape(-1, points.x.shape[-1])
    local = indices - jax.lax.axis_index("data") * len(x)
    present = (local >= 0) & (local < len(x))
    return jax.lax.psum(jnp.where(present[:, None], x[jnp.where(present, local, 0)], 0), "data")


def _gather(values):
    """The values [N] of all devices' points, from each device's part."""
    return jax.lax.all_gather(values.reshape(-1), "data", tiled=True)


def _plus_plus(key, points: Points, problem: Problem, candidates, num_centers: int):
    """First centers [num_centers, D] by greedy k-means++.

    Each new center is the best of some `candidates`, drawn in proportion to their squared distance to the closest
    center so far.
    """
    max_candidates = 2 + int(np.log(num_centers))
    first_key, key = jax.random.split(key)
    x, real, squares = points.x.reshape(-1, points.x.shape[-1]), points.real.reshape(-1), points.squares.reshape(-1)
    first = _take(points, jax.random.randint(first_key, (1,), 0, problem.n))
    centers = jnp.zeros((num_centers, x.shape[1]), x.dtype).at[0].set(first[0])

    def distances_to(drawn):
        return jnp.where(real[None], jnp.maximum(_distances(x, drawn, max_candidates) + squares[None], 0), 0)

    def add(i, carry):
        centers, closest = carry
        # Draw the candidates.
        sums = jnp.cumsum(_gather(closest))
        draw_keys = jax.random.split(jax.random.fold_in(key, i), max_candidates)
        draws = jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(draw_keys) * sums[-1]
        indices = jnp.minimum(jnp.searchsorted(sums, draws, side="right").astype(jnp.int32), problem.n - 1)
        drawn = _take(points, indices)
        # Keep the one that leaves the smallest sum of squared distances.
        closer = jnp.minimum(closest[None], distances_to(drawn))
        valid = jnp.arange(max_candidates, dtype=jnp.int32) < candidates
        best = jnp.where(valid, jax.lax.psum(closer.sum(axis=1), "data"), jnp.inf).argmin()
        return centers.at[i].set(drawn[best]), closer[best]

    return jax.lax.fori_loop(1, problem.k, add, (centers, distances_to(first)[0]))[0]


def _lloyd(points: Points, centers, problem: Problem, form: Form):
    """Lloyd's algorithm: (labels [N], centers [num_centers, D], inertia, n_iter)."""
    index = jnp.arange(len(centers), dtype=jnp.int32)[:, None]
    clusters = _Clusters(points, problem.k, index, form)

    def proceed(state):
        _, _, i, unchanged, shift = state
        return (i < problem.max_iter) & ~unchanged & ((i == 0) | (shift > tolerance))

    def iterate(state):
        centers, previous, i, _, _ = state
        # Assign each point to its nearest center.
        labels, sums, sizes = clusters.assign(centers)
        # Move the farthest points to empty clusters.
        any_empty = clusters.empty(sizes).any()
        sums, sizes = jax.lax.cond(
            any_empty, clusters.relocate, lambda centers, labels, *totals: totals, centers, labels, sums, sizes
        )
        # Move each center to the mean of its points; a center without any, to that of the largest cluster.
        means = sums / jnp.maximum(sizes, 1)
        moved = jnp.where(sizes > 0, means, means[sizes[:, 0].argmax()][None])
        # Stop when no label has changed, or the centers hardly move.
        shift = jnp.where(index < problem.k, (moved - centers) ** 2, 0).sum()
        unchanged = jax.lax.psum((labels != previous).sum(dtype=jnp.int32), "data") == 0
        return moved, labels, i + 1, unchanged, shift

    # The tolerance is relative to the mean variance of the features, which are centered.
    total = jax.lax.psum(points.squares.sum(), "data")
    tolerance = problem.tol * total / (problem.n.astype(problem.tol.dtype) * centers.shape[1])
    no_labels = jnp.full(points.real.shape, -1, jnp.int32)
    start = (centers, no_labels, jnp.int32(0), False, jnp.zeros((), centers.dtype))
    centers, labels, n_iter, unchanged, _ = jax.lax.while_loop(proceed, iterate, start)

    # The centers have moved since the last assignment, unless no label changed in it.
    labels = jax.lax.cond(unchanged, lambda: labels, lambda: clusters.assign(centers)[0])
    inertia = jax.lax.psum(clusters.errors(centers, labels).sum(), "data")
    return _gather(labels), centers, inertia, n_iter


@dataclass(frozen=True)
class _Clusters:
    """The steps of Lloyd's algorithm for `k` clusters of the points.

    `index` [num_centers, 1] numbers the centers. Padded points get the label `num_centers` and belong to no cluster.
    """

    points: Points
    k: Any
    index: jax.Array
    form: Form

    def assign(self, centers):
        """Assign the points to their nearest centers.

        Returns the labels [chunks, size], and the sums [num_centers, D] and sizes [num_centers, 1] of all clusters.
        """

        def chunk(sums, part):
            x, real = part
            labels = self._nearest(x, real, centers)
            return sums + self._sums(x, labels), labels

        sums, labels = self._scan(chunk, jnp.zeros_like(centers), (self.points.x, self.points.real))
        flat = labels.reshape(-1)
        sizes = (flat[None] == self.index).sum(axis=1) if self.form.product else jnp.bincount(flat, length=len(centers))
        return labels, *jax.lax.psum((sums, sizes.astype(sums.dtype)[:, None]), "data")

    def errors(self, centers, labels):
        """Squared distances [chunks, size] of the points to the centers of their clusters."""

        def chunk(_, part):
            x, labels = part
            return None, ((x - centers[labels]) ** 2).sum(axis=1)

        return jnp.where(self.points.real, self._scan(chunk, None, (self.points.x, labels))[1], 0)

    def empty(self, sizes):
        """Which clusters [num_centers] have no point; padded ones do not count."""
        return (sizes[:, 0] == 0) & (self.index[:, 0] < self.k)

    def relocate(self, centers, labels, sums, sizes):
        """Sums and sizes after the farthest points have become the empty clusters."""
        num_centers = len(centers)
        empty = self.empty(sizes)
        errors, indices = jax.lax.top_k(_gather(self.errors(centers, labels)), num_centers)
        moves = jnp.where((errors[0] > 0) & (self.index[:, 0] < empty.sum(dtype=jnp.int32)), 1.0, 0.0)[:, None]
        moved = _take(self.points, indices) * moves
        donors = _gather(labels)[indices]
        receivers = jnp.nonzero(empty, size=num_centers, fill_value=num_centers)[0]
        # A product, as a scatter would add the points of one donor in an arbitrary order on a GPU.
        to, off = ((each[None] == self.index).astype(sums.dtype) for each in (receivers, donors))
        change = partial(jnp.matmul, to - off, precision=HIGHEST)
        return sums + change(moved), sizes + change(moves)

    def _nearest(self, x, real, centers):
        num_centers = len(centers)
        distances = _distances(x, centers, self.k, self.form.precision)
        # The lowest index among equals; argmin is a slow variadic reduction on a CPU.
        nearest = distances == distances.min(axis=0)[None]
        labels = jnp.where(nearest, jnp.broadcast_to(self.index, distances.shape), num_centers).min(axis=0)
        return jnp.where(real, labels, num_centers)

    def _sums(self, x, labels):
        if self.form.product:
            return jnp.matmul((labels[None] == self.index).astype(x.dtype), x, precision=self.form.precision)
        return jax.ops.segment_sum(x, labels, len(self.index))

    def _scan(self, function, init, arrays):
        """`scan` over the chunks; a single chunk without a loop, which would copy it."""
        return jax.lax.scan(function, init, arrays, unroll=len(self.points.x) == 1)
