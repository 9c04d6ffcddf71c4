"""Dual variables of the size constraints, by Newton's method on the smoothed dual.

With a dual variable for each cluster, every point chooses the cluster of the least cost minus dual. When the choice is
smoothed to a softmax, the duals for which every cluster gets its target size maximize a concave function, the dual of
the assignment. Newton's method climbs it while the smoothing is reduced; Sinkhorn's algorithm has the same maximum, but
takes many more steps. This process's devices share the points, and the host solves the k x k systems. The largest array
is that of the costs, points x clusters in float32.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.regroup.kmeans import HIGHEST, aligned_zeros

STEPS = 40  # Newton steps, at most
REACH = 16  # the largest change of a dual in one step, in units of the smoothing
FADE = 4  # the smoothing is divided by this ...
SMOOTH = 0.7  # ... once the smoothed sizes miss their target by less than this share of what the sharp ones miss
PAIRED = 128  # points per cluster that the Newton system is estimated from
ROUNDING = 2.0**-24  # of float32

SHARDED, REPLICATED = PartitionSpec("data"), PartitionSpec()


class Costs(NamedTuple):
    """Costs [chunks, clusters, size] of all points, and their accuracy.

    `errors` [N] bound the error of a difference of two costs of a point.
    """

    values: jax.Array
    errors: np.ndarray


class DualSolver:
    """Duals for points x [N, D] float32 of mean zero, sharded over the devices.

    The arrays are padded to `pad_to` = (points, clusters).
    """

    def __init__(self, x: np.ndarray, pad_to: tuple[int, int]):
        num_points, self._num_clusters = pad_to
        self._norms = np.linalg.norm(x, axis=1)
        self._mesh = Mesh(np.array(jax.local_devices()), ("data",))
        # On a CPU a chunk's distances stay in the cache.
        chunk = 2**17 if jax.default_backend() == "cpu" else 2**27
        chunks = self._mesh.size * -(-num_points * self._num_clusters // (chunk * self._mesh.size))
        padded = aligned_zeros((chunks, -(-num_points // chunks), x.shape[1]))
        padded.reshape(-1, x.shape[1])[: len(x)] = x
        real = np.zeros(padded.shape[:2], np.float32)
        real.reshape(-1)[: len(x)] = 1
        self._x, self._real = jax.device_put((padded, real), NamedSharding(self._mesh, SHARDED))

    def costs(self, centers: np.ndarray) -> Costs:
        """Squared distances to centers [k, D], less the squared norm of the point."""
        padded = np.zeros((self._num_clusters, centers.shape[1]), np.float32)
        padded[: len(centers)] = centers
        longest = np.linalg.norm(centers, axis=1).max()
        # The roundings of a sum of D products and of three other operations, for both costs and the dual.
        errors = 4 * (len(padded[0]) + 8) * ROUNDING * longest * (2 * self._norms + longest)
        return Costs(_costs(self._x, padded, np.int32(len(centers)), mesh=self._mesh), errors)

    def choices(self, costs: Costs, duals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each point's best cluster [N], and its margin [N] to the second best.

        Of equals, the lowest index is taken; the margins are lower bounds that account for rounding.
        """
        labels, margins = jax.device_get(_choices(costs.values, self._padded(duals), mesh=self._mesh))
        labels, margins = (np.array(a).reshape(-1)[: len(self._norms)] for a in (labels, margins))
        return labels, margins - costs.errors - 8 * ROUNDING * np.abs(duals).max()

    def solve(
        self,
        costs: Costs,
        duals: np.ndarray,
        *,
        smoothing: float,
        target_size: float,
        lower_bound: float,
        tolerance: float,
    ) -> np.ndarray:
        """Duals [k] float32 by which about `target_size` points choose each cluster.

        Args:
            costs: of the points.
            duals: where to start, [k].
            smoothing: the first temperature of the softmax.
            target_size: points per cluster.
            lower_bound: of the duals; clusters at this bound may be larger than `target_size`.
            tolerance: stop when at most so many points are in a wrong cluster.
        """
        k, best, fewest = len(duals), duals, np.inf
        # The direction of a step may be less exact than its goal: about PAIRED points per cluster are enough for it.
        every = max(1, self._real.size // (PAIRED * self._num_clusters))
        for _ in range(STEPS):
            response = _response(
                costs.values, self._real, self._padded(duals), np.float32(smoothing), mesh=self._mesh, every=every
            )
            soft_sizes, pairs, sharp_sizes = (np.asarray(a, np.float64) for a in jax.device_get(response))

            # Keep the duals that leave the fewest points in a wrong cluster.
            fixed = (duals <= lower_bound) & (soft_sizes[:k] > target_size)
            soft_missing, sharp_missing = (
                np.where(fixed, 0, target_size - sizes[:k]) for sizes in (soft_sizes, sharp_sizes)
            )
            soft_error, sharp_error = np.abs(soft_missing).sum() / 2, np.abs(sharp_missing).sum() / 2
            if sharp_error < fewest:
                best, fewest = duals, sharp_error
            if sharp_error <= tolerance:
                break

            # Take a Newton step, and reduce the smoothing where it is solved well enough.
            step = smoothing * _newton_step(pairs[:k, :k], soft_missing, fixed)
            duals = np.maximum(duals + step, lower_bound).astype(np.float32)
            if soft_error < SMOOTH * sharp_error:
                smoothing /= FADE
        return best

    def _padded(self, duals: np.ndarray) -> np.ndarray:
        return np.pad(duals, (0, self._num_clusters - len(duals))).astype(np.float32)


def _newton_step(pairs: np.ndarray, missing: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """A Newton step of the duals [k], in units of the smoothing.

    It attracts the `missing` points [k], and is 0 for `fixed` duals [k]. The matrix is the Laplacian of a graph of the
    clusters with the weights `pairs` [k, k]. The addition to its diagonal bounds every change by REACH, however few
    points lie between the clusters, and vanishes at the solution.
    """
    rounding = ROUNDING * pairs.sum()
    laplacian = np.diag(pairs.sum(axis=1) + np.abs(missing).max() / REACH + rounding) - pairs
    laplacian[fixed], laplacian[:, fixed] = 0, 0
    laplacian[fixed, fixed] = 1
    return np.linalg.solve(laplacian, missing)


def _on_devices(function, mesh, outputs, *sharded, replicated=()):
    """Run `function` on all devices, each with its own chunks of `sharded` arrays."""
    specs = (*(SHARDED for _ in sharded), *(REPLICATED for _ in replicated))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=outputs, check_vma=False)(*sharded, *replicated)


@partial(jax.jit, static_argnames="mesh")
def _costs(x, centers, k, mesh):
    def local(x, centers, k):
        real = jnp.arange(len(centers), dtype=jnp.int32) < k
        squares = jnp.where(real, (centers * centers).sum(axis=1), jnp.inf)
        return jax.lax.map(lambda x: squares[:, None] + jnp.matmul(-2 * centers, x.T, precision=HIGHEST), x)

    return _on_devices(local, mesh, SHARDED, x, replicated=(centers, k))


@partial(jax.jit, static_argnames="mesh")
def _choices(costs, duals, mesh):
    """Labels and margins [chunks, size]."""
    index = jnp.arange(len(duals), dtype=jnp.int32)[:, None]

    def chunk(costs):
        reduced = costs - duals[:, None]
        least = reduced.min(axis=0)
        # The lowest index among equals; argmin is a slow variadic reduction on a CPU.
        labels = jnp.where(reduced == least[None], index, len(duals)).min(axis=0)
        return labels, jnp.where(index == labels[None], jnp.inf, reduced).min(axis=0) - least

    return _on_devices(lambda costs: jax.lax.map(chunk, costs), mesh, SHARDED, costs)


@partial(jax.jit, static_argnames=("mesh", "every"))
def _response(costs, real, duals, smoothing, mesh, every):
    """Smoothed and sharp sizes of clusters, and the derivative of the smoothed ones.

    Returns the sums over the points of their softmax shares [k]; of the products of all pairs of shares [k, k],
    estimated from one of `every` so many points; and of their sharp choices [k].
    """

    def chunk(sums, part, duals, smoothing):
        costs, real = part
        scores = (duals[:, None] - costs) / smoothing
        odds = jnp.exp(scores - scores.max(axis=0)[None])
        shares = odds * (real / odds.sum(axis=0))[None]
        sample = shares[:, ::every]
        pairs = every * jnp.matmul(sample, sample.T, precision=HIGHEST)
        terms = shares.sum(axis=1), pairs, jnp.where(odds == 1, real[None], 0).sum(axis=1)
        return jax.tree.map(jnp.add, sums, terms), None

    def local(costs, real, duals, smoothing):
        k = len(duals)
        zeros = jnp.zeros(k), jnp.zeros((k, k)), jnp.zeros(k)
        sums, _ = jax.lax.scan(lambda sums, part: chunk(sums, part, duals, smoothing), zeros, (costs, real))
        return jax.lax.psum(sums, "data")

    return _on_devices(local, mesh, REPLICATED, costs, real, replicated=(duals, smoothing))
