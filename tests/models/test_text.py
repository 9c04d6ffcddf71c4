"""Text networks against hidden states and gradients recorded from transformers (record_text.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax.models.backbone import Options
from rgjax.models.families import open_pretrained
from rgjax.models.packing import pack
from rgjax.models.pretrained import Checkpoint
from rgjax.models.text import TEXT

FOLDER = Path(__file__).parent / "text"
TOLERANCE = 1e-5
FAMILIES = [name for name in TEXT if name != "bert"]


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "golden.npz") as file:
        return dict(file)


def network(folder, **options):
    pretrained = open_pretrained(Checkpoint(str(folder), ways_out="another"))
    assert pretrained.kind == "sentences"
    return pretrained.build(Options(**options))


def packed_of(golden, name, spare=0):
    lengths = golden["lengths"]
    return pack(jnp.asarray(golden[f"{name}_ids"]), jnp.asarray(lengths), int(lengths.sum()) + spare)


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_and_gradients_equal_torch(name, golden):
    model, lengths = network(FOLDER / name), golden["lengths"]
    graph, params = nnx.split(model)
    packed = packed_of(golden, name, spare=5)

    @jax.jit
    def gradient(params):
        def squares(params):
            model = nnx.merge(graph, params)
            features = model.features(packed)
            return (features**2).sum(), (model(packed), features)

        return jax.grad(squares, has_aux=True)(params)

    grads, (hidden, features) = gradient(params)
    np.testing.assert_allclose(hidden[: lengths.sum()], golden[f"{name}_hidden"], atol=TOLERANCE)
    means = np.stack([part.mean(axis=0) for part in np.split(golden[f"{name}_hidden"], lengths.cumsum()[:-1])])
    np.testing.assert_allclose(features, means, atol=TOLERANCE)
    assert features.shape[1] == model.width
    np.testing.assert_allclose(grads["words"][...], golden[f"{name}_grad_words"], atol=TOLERANCE)
    matrix = grads["relative"][...] if name == "mpnet" else grads["layers"]["mlp1"]["kernel"][...][0].T
    np.testing.assert_allclose(matrix, golden[f"{name}_grad_matrix"], atol=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("name", ["mpnet", "modernbert"])
def test_dropout_is_on_in_training_only_and_bfloat16_is_close(name, golden):
    packed = packed_of(golden, name)
    exact = np.asarray(network(FOLDER / name).features(packed))
    model = network(FOLDER / name, dropout=0.3)
    np.testing.assert_array_equal(model.features(packed, key=jax.random.key(0)), exact)
    once, again = (np.asarray(model.features(packed, train=True, key=jax.random.key(i))) for i in (0, 1))
    assert np.abs(once - again).max() > 0.01
    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention promotes within
        rough = np.asarray(network(FOLDER / name, dtype=jnp.bfloat16).features(packed))
    assert rough.dtype == np.float32
    cosines = (exact * rough).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.999
