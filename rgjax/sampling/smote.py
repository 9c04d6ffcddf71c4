"""SMOTE (Chawla et al. 2002): synthetic examples between neighbors of a class."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Integer, Shaped

from rgjax.console import progress
from rgjax.sharding import in_batches

_BATCH = 128  # examples encoded or decoded at a time


class Coder(NamedTuple):
    """From examples [B, ...] to codes float32 [B, D] and back."""

    encode: Callable[[np.ndarray], Any]
    decode: Callable[[jax.Array], jax.Array]


class SyntheticFeatures(NamedTuple):
    """Synthetic features with their labels."""

    inputs: Float[np.ndarray, "M D"]
    labels: Int[np.ndarray, " M"]


def feature_smote(
    features: Float[np.ndarray, "N D"], labels: Integer[np.ndarray, " N"], *, neighbors: int, seed: int
) -> SyntheticFeatures:
    """Balance the classes with features between neighbors of a class.

    Args:
        features: of the training examples.
        labels: their (pseudo-)classes.
        neighbors: number of nearest neighbors in the class, of which one is drawn.
        seed: of the draws.
    """
    made, inputs = synthesize(Coder(np.asarray, lambda codes: codes), features, labels, neighbors, jax.random.key(seed))
    return SyntheticFeatures(inputs, made)


def missing(labels: Integer[np.ndarray, " N"]) -> Int[np.ndarray, " M"]:
    """Labels of the synthetic images that make all classes as large as the largest."""
    counts = np.bincount(labels)
    return np.repeat(np.arange(len(counts), dtype=np.int32), np.where(counts > 0, counts.max() - counts, 0))


def synthesize(
    coder: Coder,
    examples: Shaped[np.ndarray, "N ..."],
    labels: Integer[np.ndarray, " N"],
    neighbors: int,
    key: jax.Array,
) -> tuple[Int[np.ndarray, " M"], Shaped[np.ndarray, "M ..."]]:
    """Make the `missing` labels, and an example for each.

    Args:
        coder: between examples and the codes that are interpolated.
        examples: the training examples.
        labels: their classes.
        neighbors: number of nearest neighbors to interpolate to.
        key: random key.
    """
    new_labels = missing(labels)
    made, done = np.empty((len(new_labels), *examples.shape[1:]), examples.dtype), 0
    with progress(what="synthesize", total=len(new_labels), unit="example") as bar:
        for label, count in zip(*np.unique(new_labels, return_counts=True), strict=True):
            members = np.flatnonzero(labels == label)
            batches = in_batches(members, _BATCH)
            codes = np.concatenate([np.asarray(coder.encode(examples[batch])) for batch in batches])[: len(members)]
            # Padded, so that classes share one compiled program.
            near, codes, size = padded(nearest(codes, neighbors)), padded(codes), np.int32(len(members))
            for start in range(0, count, _BATCH):
                draw_key = jax.random.fold_in(jax.random.fold_in(key, label), start)
                batch = coder.decode(smote(draw_key, codes, near, size, draws=_BATCH))[: count - start]
                made[done : done + len(batch)] = np.asarray(batch)
                done += len(batch)
                bar.update(len(batch))
    return new_labels, made


def padded(values: np.ndarray) -> np.ndarray:
    """Values [n, D] padded with zeros to a power of two."""
    size = 1 << (len(values) - 1).bit_length()
    return np.concatenate([values, np.zeros((size - len(values), values.shape[1]), values.dtype)])


def nearest(codes: Float[np.ndarray, "n D"], k: int) -> Int[np.ndarray, "n k"]:
    """Indices of the `k` nearest other codes of each code; padded with zeros."""
    from sklearn.neighbors import NearestNeighbors  # takes seconds to import

    near, count = np.zeros((len(codes), k), np.int32), min(k, len(codes) - 1)
    if count:
        search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(codes)
        near[:, :count] = search.kneighbors(return_distance=False)
    return near


@partial(jax.jit, static_argnames="draws")
def smote(key: jax.Array, codes: jax.Array, near: jax.Array, count: jax.Array, *, draws: int) -> jax.Array:
    """SMOTE (Chawla et al. 2002): codes [draws, D] between codes and their neighbors.

    Args:
        key: random key.
        codes: codes [P, D]: the first `count` are real, the others padding.
        near: indices [P, k] of the neighbors of each code, as `nearest` returns them.
        count: number of real codes; if there is only one, it is copied.
        draws: number of synthetic codes.
    """
    member_key, neighbor_key, share_key = jax.random.split(key, 3)
    k = jnp.minimum(near.shape[1], count - 1)
    members = jax.random.randint(member_key, (draws,), 0, count)
    neighbors = near[members, jax.random.randint(neighbor_key, (draws,), 0, jnp.maximum(k, 1))]
    neighbors = jnp.where(k > 0, neighbors, members)
    share = jax.random.uniform(share_key, (draws, 1), jnp.float32)
    return codes[members] + share * (codes[neighbors] - codes[members])
