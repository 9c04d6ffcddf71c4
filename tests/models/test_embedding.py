"""Sums of rows by their index, and how sentences are pooled, without a scatter on GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.models.kernels.embedding import lookup, sum_by_product, sum_by_scatter, sum_by_segments
from rgjax.models.packing import pack
from rgjax.models.pooling import POOLINGS, Pooling


# Sums within a block of 128, across ends of blocks, of an index that fills several blocks, of indices that occur once.
@pytest.mark.parametrize(("places", "rows"), [(40, 9), (300, 40), (700, 2), (200, 3000)])
@pytest.mark.parametrize("sums", [sum_by_product, sum_by_segments, sum_by_scatter])
def test_rows_are_summed_by_their_index(sums, places, rows):
    rng = np.random.default_rng(0)
    indices = rng.integers(0, rows, places).astype(np.int32)
    values = rng.standard_normal((places, 3)).astype(np.float32)
    exact = np.zeros((rows, 3))
    np.add.at(exact, indices, values.astype(np.float64))
    np.testing.assert_allclose(sums(jnp.asarray(indices), jnp.asarray(values), rows), exact, atol=2e-5)


def test_a_lookup_has_the_gradient_of_indexing():
    table = jnp.arange(12.0).reshape(6, 2)
    indices = jnp.array([[0, 5, 2], [5, 5, 0]], jnp.int32)
    weights = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(lookup(table, indices), table[indices])
    ours, plain = (
        jax.grad(lambda table, look=look: (look(table) * weights).sum())(table)
        for look in (lambda table: lookup(table, indices), lambda table: table[indices])
    )
    np.testing.assert_array_equal(ours, plain)


def test_poolings_have_the_gradient_of_indexing_without_a_scatter():
    packed = pack(jnp.ones((3, 8), jnp.int32), jnp.array([8, 3, 5], jnp.int32), 20)
    hidden = jnp.asarray(np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))

    @jax.jit
    def gradient(hidden):
        return jax.grad(lambda hidden: (Pooling(tuple(POOLINGS))(hidden, packed) ** 2).sum())(hidden)

    def plain(hidden):
        sentences = hidden[:8], hidden[8:11], hidden[11:16]
        place = [jnp.arange(1.0, len(x) + 1)[:, None] for x in sentences]
        vectors = [
            (x[0], x.max(axis=0), x.mean(axis=0), x.sum(axis=0) / len(x) ** 0.5, (i * x).sum(axis=0) / i.sum(), x[-1])
            for i, x in zip(place, sentences, strict=True)
        ]
        return sum((jnp.stack(vector) ** 2).sum() for vector in vectors)

    np.testing.assert_allclose(gradient(hidden), jax.grad(plain)(hidden), atol=1e-5)
    assert "scatter" not in gradient.trace(hidden).lower(lowering_platforms=("cuda",)).as_text()
