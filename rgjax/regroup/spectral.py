"""Normalized cut (Shi & Malik 2000) of the graph of nearest neighbors by cosine.

The neighbors are found exactly, on a device; the eigenvectors of the normalized graph by ARPACK, but for those of
eigenvalue one, which its connected components tell; the groups by K-means in the space that they span.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, aslinearoperator, eigsh

from rgjax.regroup.kmeans import HIGHEST, checked, kmeans

NEIGHBORS = 10
DENSE = 600  # nodes up to which the whole spectrum is computed
MEMORY = 2**26  # floats for the similarities of some rows to all


def normalized_cut(
    x: np.ndarray, k: int, *, seed: int = 0, n_init: int = 10, pad_to: tuple[int, int] | None = None
) -> np.ndarray:
    """Labels [N] of `k` groups of the points x [N, D], as many as K-means finds distinct points for.

    Calls with an equal `pad_to` = (points, groups) and D run the same compiled programs. Each process of a
    multi-process run computes for itself. Raises ValueError for k outside 1..N and for values not finite.
    """
    x = checked(x, k)
    if k == 1:
        return np.zeros(len(x), np.int32)
    points, groups = pad_to or (len(x), k)
    graph = neighbor_graph(x, points)
    places = np.zeros((len(x), max(groups, k)), np.float32)
    found = embedding(graph, k, seed)
    places[:, : found.shape[1]] = found
    return kmeans(places, k, seed=seed, n_init=n_init, pad_to=pad_to).labels


def neighbor_graph(x: np.ndarray, points: int) -> csr_array:
    """Weights [N, N]: 1 between rows that are among each other's nearest, 1/2 where only one is so."""
    n = len(x)
    wide = np.zeros((max(points, NEIGHBORS + 1), x.shape[1]), np.float32)
    wide[:n] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    count = min(NEIGHBORS, n - 1)
    neighbors = np.asarray(_nearest(wide, np.int32(n)))[:n, :count]
    rows = np.repeat(np.arange(n), count)
    directed = csr_array((np.full(n * count, 0.5), (rows, neighbors.reshape(-1))), shape=(n, n))
    return csr_array(directed + directed.T)


@jax.jit
def _nearest(x, n):
    """The neighbors [N, NEIGHBORS] of each row, the nearest first and the lowest of equals."""
    columns = jnp.arange(len(x), dtype=jnp.int32)

    def of(row):
        point, own = row
        similar = jnp.matmul(x, point, precision=HIGHEST)
        return jax.lax.top_k(jnp.where((columns < n) & (columns != own), similar, -jnp.inf), NEIGHBORS)[1]

    return jax.lax.map(of, (x, columns), batch_size=max(1, min(len(x), MEMORY // len(x))))


def embedding(graph: csr_array, k: int, seed: int) -> np.ndarray:
    """Places [N, k] of the nodes: the eigenvectors of the k smallest eigenvalues of the normalized Laplacian, divided
    by the root of the degree. Of more than k components, the smallest are taken for one."""
    roots = np.sqrt(graph.sum(axis=1))
    n = len(roots)
    count, component = connected_components(graph, directed=False)
    rank = np.argsort(np.argsort(-np.bincount(component), kind="stable"))
    count, component = min(count, k), np.minimum(rank[component], k - 1)
    # There are as many eigenvalues zero as components, of which Lanczos' method may miss some.
    null = np.zeros((n, count))
    null[np.arange(n), component] = roots
    null /= np.linalg.norm(null, axis=0)
    vectors = [null]
    if count < k:
        vectors.append(_leading(diags_array(1 / roots) @ graph @ diags_array(1 / roots), null, k - count, seed))
    return np.hstack(vectors) / roots[:, None] * np.linalg.norm(roots)


def _leading(matrix: csr_array, null: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Eigenvectors [N, k] of the largest eigenvalues beside those of `null`, which are moved from 1 to -2."""
    n = len(null)
    if n <= DENSE or k >= n // 4:
        return np.linalg.eigh(matrix.toarray() - 3 * null @ null.T)[1][:, ::-1][:, :k]
    deflated = aslinearoperator(matrix) - 3 * aslinearoperator(null) @ aslinearoperator(null.T)
    try:
        return eigsh(deflated, k, which="LA", v0=np.random.default_rng(seed).uniform(-1, 1, n))[1][:, ::-1]
    except ArpackNoConvergence as error:  # what has converged spans the cut already
        return error.eigenvectors
