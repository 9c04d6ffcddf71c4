"""Prices of clusters by which about as many points choose each as it shall have.

Points choose by cost less price. With the choice smoothed to a softmax, the right prices are the maximum of a concave
function, the dual of the assignment; Newton's method climbs it while the smoothing fades. Sinkhorn's algorithm has the
same maximum, but takes many more steps. This process's devices share the points, and the host solves the k x k systems.
The largest array is one of the costs, points x clusters in float32.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.regroup.kmeans import HIGHEST, aligned_zeros

STEPS = 40  # of Newton's method, at most
REACH = 16  # the farthest that a step moves a price, in units of the smoothing
FADE = 4  # the smoothing falls by this factor
SMOOTH = 0.7  # where the smoothed choice is so much nearer to what is wanted than the sharp one
PAIRED = 128
ROUNDING = 2.0**-24  # of float32

ON_ROWS, EVERYWHERE = PartitionSpec("data"), PartitionSpec()


class Offers(NamedTuple):
    """Costs [chunks, clusters, size] of all points, and a bound [N] of the error of a difference of a row's costs."""

    costs: jax.Array
    errors: np.ndarray


class Market:
    """Points x [N, D] float32, of mean zero, spread over the devices and padded to `pad_to` = (points, clusters)."""

    def __init__(self, x: np.ndarray, pad_to: tuple[int, int]):
        points, self._clusters = pad_to
        self._lengths = np.linalg.norm(x, axis=1)
        self._mesh = Mesh(np.array(jax.local_devices()), ("data",))
        # On a CPU a chunk's distances stay in the cache.
        chunk = 2**17 if jax.default_backend() == "cpu" else 2**27
        chunks = self._mesh.size * -(-points * self._clusters // (chunk * self._mesh.size))
        rows = aligned_zeros((chunks, -(-points // chunks), x.shape[1]))
        rows.reshape(-1, x.shape[1])[: len(x)] = x
        real = np.zeros(rows.shape[:2], np.float32)
        real.reshape(-1)[: len(x)] = 1
        self._x, self._real = jax.device_put((rows, real), NamedSharding(self._mesh, ON_ROWS))

    def offers(self, centers: np.ndarray) -> Offers:
        """Squared distances to centers [k, D], each less the point's squared length."""
        wide = np.zeros((self._clusters, centers.shape[1]), np.float32)
        wide[: len(centers)] = centers
        longest = np.linalg.norm(centers, axis=1).max()
        # Of a sum of D products and of the other three roundings, for either cost and price.
        errors = 4 * (len(wide[0]) + 8) * ROUNDING * longest * (2 * self._lengths + longest)
        return Offers(_costs(self._x, wide, np.int32(len(centers)), mesh=self._mesh), errors)

    def choices(self, offers: Offers, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each point's cluster [N], the lowest of equals, and by how much [N] it is the best at least."""
        labels, margins = jax.device_get(_choices(offers.costs, self._wide(prices), mesh=self._mesh))
        labels, margins = (np.array(a).reshape(-1)[: len(self._lengths)] for a in (labels, margins))
        return labels, margins - offers.errors - 8 * ROUNDING * np.abs(prices).max()

    def prices(
        self, offers: Offers, prices: np.ndarray, smoothing: float, wanted: float, least: float, enough: float
    ) -> np.ndarray:
        """Prices [k] float32, better than these, by which about `wanted` points choose each cluster.

        None is below `least`; clusters of that price may have more. Ends when no more than `enough` points choose
        wrongly.
        """
        k, best, fewest = len(prices), prices, np.inf
        # The direction of a step may be less exact than its aim: by about PAIRED points for each cluster.
        every = max(1, self._real.size // (PAIRED * self._clusters))
        for _ in range(STEPS):
            response = _response(
                offers.costs, self._real, self._wide(prices), np.float32(smoothing), mesh=self._mesh, every=every
            )
            loads, pairs, sizes = (np.asarray(a, np.float64) for a in jax.device_get(response))
            fixed = (prices <= least) & (loads[:k] > wanted)
            missing, wrong = (np.where(fixed, 0, wanted - found[:k]) for found in (loads, sizes))
            soft, sharp = np.abs(missing).sum() / 2, np.abs(wrong).sum() / 2
            if sharp < fewest:
                best, fewest = prices, sharp
            if sharp <= enough:
                break
            step = smoothing * _newton_step(pairs[:k, :k], missing, fixed)
            prices = np.maximum(prices + step, least).astype(np.float32)
            if soft < SMOOTH * sharp:
                smoothing /= FADE
        return best

    def _wide(self, prices: np.ndarray) -> np.ndarray:
        return np.pad(prices, (0, self._clusters - len(prices))).astype(np.float32)


def _newton_step(pairs: np.ndarray, missing: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Changes of the prices [k], in units of the smoothing, by which the `missing` points come; none of the `fixed`.

    The system is the Laplacian of a graph of the clusters, `pairs` being its weights. What is added to its diagonal
    bounds every change by REACH, however few points lie between the clusters, and vanishes at the solution.
    """
    rounding = ROUNDING * pairs.sum()
    laplacian = np.diag(pairs.sum(axis=1) + np.abs(missing).max() / REACH + rounding) - pairs
    laplacian[fixed], laplacian[:, fixed] = 0, 0
    laplacian[fixed, fixed] = 1
    return np.linalg.solve(laplacian, missing)


def _on_devices(function, mesh, outputs, *arguments, shared=()):
    """`function` on all devices, each with its own chunks of the `arguments` and with what is `shared`."""
    specs = (*(ON_ROWS for _ in arguments), *(EVERYWHERE for _ in shared))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=outputs, check_vma=False)(*arguments, *shared)


@partial(jax.jit, static_argnames="mesh")
def _costs(x, centers, k, mesh):
    def local(x, centers, k):
        real = jnp.arange(len(centers), dtype=jnp.int32) < k
        squares = jnp.where(real, (centers * centers).sum(axis=1), jnp.inf)
        return jax.lax.map(lambda x: squares[:, None] + jnp.matmul(-2 * centers, x.T, precision=HIGHEST), x)

    return _on_devices(local, mesh, ON_ROWS, x, shared=(centers, k))


@partial(jax.jit, static_argnames="mesh")
def _choices(costs, prices, mesh):
    """Labels and margins [chunks, size]."""
    index = jnp.arange(len(prices), dtype=jnp.int32)[:, None]

    def chunk(costs):
        asked = costs - prices[:, None]
        least = asked.min(axis=0)
        # The lowest index among equals; argmin is a slow variadic reduction on a CPU.
        labels = jnp.where(asked == least[None], index, len(prices)).min(axis=0)
        return labels, jnp.where(index == labels[None], jnp.inf, asked).min(axis=0) - least

    return _on_devices(lambda costs: jax.lax.map(chunk, costs), mesh, ON_ROWS, costs)


@partial(jax.jit, static_argnames=("mesh", "every"))
def _response(costs, real, prices, smoothing, mesh, every):
    """How the points choose, smoothed: the clusters' loads [k] and the products of all pairs' shares [k, k], summed
    over the points, or in proportion over one of `every` so many; and their sizes [k] if the points chose sharply."""

    def chunk(sums, rows, prices, smoothing):
        costs, real = rows
        bids = (prices[:, None] - costs) / smoothing
        odds = jnp.exp(bids - bids.max(axis=0)[None])
        shares = odds * (real / odds.sum(axis=0))[None]
        some = shares[:, ::every]
        pairs = every * jnp.matmul(some, some.T, precision=HIGHEST)
        found = shares.sum(axis=1), pairs, jnp.where(odds == 1, real[None], 0).sum(axis=1)
        return jax.tree.map(jnp.add, sums, found), None

    def local(costs, real, prices, smoothing):
        k = len(prices)
        zeros = jnp.zeros(k), jnp.zeros((k, k)), jnp.zeros(k)
        sums, _ = jax.lax.scan(lambda sums, rows: chunk(sums, rows, prices, smoothing), zeros, (costs, real))
        return jax.lax.psum(sums, "data")

    return _on_devices(local, mesh, EVERYWHERE, costs, real, shared=(prices, smoothing))
