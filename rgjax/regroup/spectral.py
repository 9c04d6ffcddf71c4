"""Normalized cut (Shi & Malik 2000) of the graph of nearest neighbors by cosine.

The eigenvectors of the normalized graph come from ARPACK, except those of eigenvalue one, which follow from its
connected components; the clusters come from K-means in the space that they span.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, aslinearoperator, eigsh

from rgjax.regroup.kmeans import DEFAULTS, KMeansSettings, checked, kmeans

NEIGHBORS = 10
DENSE = 600  # nodes up to which the whole spectrum is computed


def normalized_cut(x: Shaped[np.ndarray, "N D"], k: int, settings: KMeansSettings = DEFAULTS) -> Int[np.ndarray, " N"]:
    """Labels of `k` clusters by normalized cut.

    There are fewer where K-means has fewer distinct points. Each process of a multi-process run computes for itself.
    Raises ValueError for k outside 1..N and for values that are not finite.
    """
    x = checked(x, k)
    if k == 1:
        return np.zeros(len(x), np.int32)
    _, clusters = settings.pad_to or (len(x), k)
    vectors = embedding(neighbor_graph(x), k, settings.seed)
    padded = np.zeros((len(x), max(clusters, k)), np.float32)
    padded[:, : vectors.shape[1]] = vectors
    return kmeans(padded, k, settings).labels


def neighbor_graph(x: Float[np.ndarray, "N D"]) -> csr_array:
    """Weights [N, N]: 1 between mutual nearest neighbors, 1/2 if only one is."""
    from sklearn.neighbors import NearestNeighbors  # takes seconds to import

    near = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(x) - 1), metric="cosine", algorithm="brute")
    directed = csr_array(near.fit(x).kneighbors_graph())
    return csr_array((directed + directed.T) / 2)


def embedding(graph: csr_array, k: int, seed: int) -> Float[np.ndarray, "N k"]:
    """Coordinates of the nodes for the normalized cut.

    These are the eigenvectors of the k smallest eigenvalues of the normalized Laplacian, divided by the square root of
    the degree. The smallest of more than k components count as one.
    """
    roots = np.sqrt(graph.sum(axis=1))
    n = len(roots)
    count, component = connected_components(graph, directed=False)
    rank = np.argsort(np.argsort(-np.bincount(component), kind="stable"))
    count, component = min(count, k), np.minimum(rank[component], k - 1)
    # Each component has an eigenvalue zero, of which Lanczos' method may miss some.
    null = np.zeros((n, count))
    null[np.arange(n), component] = roots
    null /= np.linalg.norm(null, axis=0)
    vectors = [null]
    if count < k:
        vectors.append(_leading(diags_array(1 / roots) @ graph @ diags_array(1 / roots), null, k - count, seed))
    return np.hstack(vectors) / roots[:, None] * np.linalg.norm(roots)


def _leading(matrix: csr_array, null: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Eigenvectors [N, k] of the largest eigenvalues, except those in `null`.

    The eigenvalues of `null` are moved from 1 to -2.
    """
    n = len(null)
    if n <= DENSE or k >= n // 4:
        return np.linalg.eigh(matrix.toarray() - 3 * null @ null.T)[1][:, ::-1][:, :k]
    deflated = aslinearoperator(matrix) - 3 * aslinearoperator(null) @ aslinearoperator(null.T)
    try:
        return eigsh(deflated, k, which="LA", v0=np.random.default_rng(seed).uniform(-1, 1, n))[1][:, ::-1]
    except ArpackNoConvergence as error:  # the converged ones span the cut already
        return error.eigenvectors
