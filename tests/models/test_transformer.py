"""BERT and CLIP against activations and gradients recorded from torch (record_transformers.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rgjax.config import MAX_LAYERS, method_config
from rgjax.models.bert import Bert, BertClassifier, bert_config
from rgjax.models.factory import on_platform, unrolled_layers
from rgjax.models.families import open_pretrained
from rgjax.models.packing import first_tokens, mean_tokens, pack
from rgjax.models.pretrained import Checkpoint
from rgjax.models.transformer import attention, dropout
from rgjax.preflight.targets import compiler_installed

CHECKPOINTS = Path(__file__).parent / "checkpoints"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(CHECKPOINTS / "golden.npz") as file:
        return dict(file)


def open_checkpoint(name):
    return Checkpoint(str(CHECKPOINTS / name), ways_out="another")


def bert(name, **settings):
    checkpoint = open_checkpoint(name)
    return Bert(checkpoint.tensors(), bert_config(checkpoint), **settings)


def unpacked(hidden, packed):
    """Hidden states [B, T, D] of a packed row, and which of them are tokens."""
    row_indices = np.asarray(packed.row_indices)
    inside = row_indices < len(hidden)
    return np.asarray(hidden)[np.where(inside, row_indices, 0)], inside


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "bert_mlm", "bert_legacy", "bert_sharded", "bert_flax"])
@pytest.mark.parametrize("budget", [23, 48])
def test_bert_equals_torch(name, budget, golden):
    packed = pack(jnp.asarray(golden["bert_ids"]), jnp.asarray(golden["bert_lengths"]), budget)
    hidden, inside = unpacked(bert(name)(packed), packed)
    assert inside.sum() == golden["bert_lengths"].sum() == 23
    np.testing.assert_allclose(hidden[inside], golden["bert_hidden"][inside], atol=TOLERANCE)


@pytest.mark.parametrize("unroll", [1, 2, MAX_LAYERS])  # of three layers
def test_pooler_and_gradients_equal_torch(unroll, golden):
    checkpoint, rng = open_checkpoint("bert"), np.random.default_rng(0)
    tensors = checkpoint.tensors()
    model = BertClassifier(Bert(tensors, bert_config(checkpoint), unroll=unroll), tensors, 3, rng=rng)
    packed = pack(jnp.asarray(golden["bert_ids"]), jnp.asarray(golden["bert_lengths"]), 30)
    np.testing.assert_allclose(model.features(packed), golden["bert_pooled"], atol=TOLERANCE)

    graph, params = nnx.split(model)
    grads = jax.grad(lambda params: (nnx.merge(graph, params).features(packed) ** 2).sum())(params)
    words = grads["bert"]["words"][...]
    query = grads["bert"]["layers"]["qkv"]["kernel"][...][0, :, :24].T
    np.testing.assert_allclose(words, golden["bert_grad_word"], atol=TOLERANCE)
    np.testing.assert_allclose(query, golden["bert_grad_query0"], atol=TOLERANCE)
    # The embedding of type 0 is added to every token, as a position's is to those at it.
    types = np.asarray(grads["bert"]["types"][...])
    np.testing.assert_allclose(types[0], grads["bert"]["positions"][...].sum(axis=0), atol=TOLERANCE)
    assert np.abs(types[0]).max() > 0 and not types[1:].any()


@pytest.mark.parametrize(("platform", "asked", "layers"), [("cuda", 0, 3), ("cuda", 5, 5), ("cpu", 0, 1)])
def test_gpus_unroll_three_layers_by_default(platform, asked, layers):
    config = method_config("ce", {"model.unroll_layers": asked}).model
    assert on_platform(config, platform).unroll_layers == unrolled_layers(config, platform) == layers
    config.unroll = True
    assert unrolled_layers(on_platform(config, platform), platform) is True


def test_head_begins_as_hugging_faces():
    checkpoint, rng = open_checkpoint("bert"), np.random.default_rng(0)
    tensors = checkpoint.tensors()
    encoder = Bert(tensors, bert_config(checkpoint))
    head = BertClassifier(encoder, tensors, 1000, rng=rng).head
    kernel = np.asarray(head.kernel[...])
    assert not np.asarray(head.bias[...]).any()
    assert kernel.std() == pytest.approx(0.02, rel=0.02) and np.abs(kernel).max() > 0.06  # no uniform distribution
    cosine = BertClassifier(encoder, tensors, 10, head="cosine", rng=rng).head
    assert np.asarray(cosine.kernel[...]).std() == pytest.approx(3**-0.5, rel=0.1)


@pytest.mark.parametrize("name", ["clip", "clip_projection", "clip_vision", "clip_flax"])
def test_clip_equals_torch(name, golden):
    checkpoint, case = open_checkpoint(name), name.replace("_flax", "")
    model = open_pretrained(checkpoint).build()
    pixels = jnp.asarray(golden["clip_pixels"])
    np.testing.assert_allclose(model.hidden(pixels), golden[f"{case}_hidden"], atol=TOLERANCE)
    embeds = golden[f"{case}_embeds" if f"{case}_embeds" in golden else f"{case}_pooled"]
    np.testing.assert_allclose(model.features(pixels), embeds, atol=TOLERANCE)


def test_bfloat16_is_close_to_float32(golden):
    packed = pack(jnp.asarray(golden["bert_ids"]), jnp.asarray(golden["bert_lengths"]), 23)
    exact = np.asarray(bert("bert")(packed))
    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention promotes within
        rough = np.asarray(bert("bert", dtype=jnp.bfloat16)(packed).astype(jnp.float32))
    cosines = (exact * rough).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.999


def test_pooled_states_equal_torch(golden):
    lengths = golden["bert_lengths"]
    packed = pack(jnp.asarray(golden["bert_ids"]), jnp.asarray(lengths), 23)
    hidden = bert("bert")(packed)
    means = [golden["bert_hidden"][i, :n].mean(axis=0) for i, n in enumerate(lengths)]
    np.testing.assert_allclose(mean_tokens(hidden, packed), np.stack(means), atol=TOLERANCE)
    np.testing.assert_allclose(first_tokens(hidden, packed), golden["bert_hidden"][:, 0], atol=TOLERANCE)


@pytest.mark.long
@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_packing_keeps_each_token_once_in_order(lengths, spare):
    lengths = np.array(lengths, np.int32)
    ids = np.arange(1, lengths.size * 9 + 1, dtype=np.int32).reshape(-1, 9)
    packed = pack(jnp.asarray(ids), jnp.asarray(lengths), int(lengths.sum()) + spare)
    expected = [ids[i, :n] for i, n in enumerate(lengths)]
    total = lengths.sum()
    np.testing.assert_array_equal(packed.ids[:total], np.concatenate(expected))
    np.testing.assert_array_equal(packed.ids[total:], 0)
    np.testing.assert_array_equal(packed.positions[:total], np.concatenate([np.arange(n) for n in lengths]))
    row_indices, inside = np.asarray(packed.row_indices), np.arange(9) < lengths[:, None]
    np.testing.assert_array_equal(np.asarray(packed.ids)[row_indices[inside]], ids[inside])
    assert (row_indices[~inside] >= len(packed.ids)).all()


def test_attention_at_tiny_dropout_equals_jax():
    query, key, value = np.random.default_rng(0).standard_normal((3, 2, 5, 3, 4)).astype(np.float32)
    lengths = jnp.array([5, 2], jnp.int32)
    plain = attention(query, key, value, lengths, 0.0, None)
    ours = attention(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), lengths, 1e-9, jax.random.key(0))
    np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "cpu"])
def test_attention_is_cudnns_in_programs_for_gpus(platform):
    query = jnp.ones((2, 8, 4, 16), jnp.bfloat16)

    def total(query):
        return attention(query, query, query, jnp.array([8, 5], jnp.int32), 0.0, None).astype(jnp.float32).sum()

    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention promotes within
        program = jax.jit(jax.grad(total)).trace(query).lower(lowering_platforms=(platform,))
    by_cudnn = platform == "cuda" and compiler_installed("cuda")
    assert ("cudnn$fmhaSoftmaxBackward" in program.as_text()) == by_cudnn


def test_dropout_has_its_rate_and_keeps_the_mean():
    x = jnp.ones((1000, 101))
    y = np.asarray(dropout(x, 0.1, jax.random.key(1)))
    assert (y == 0).mean() == pytest.approx(26 / 256, abs=0.005)
    assert y.mean() == pytest.approx(1, abs=0.005)
    # Neither neighbors nor the elements that share a random word are dropped together.
    zero = y.reshape(-1) == 0
    for shift in (1, 2, 3, 4):
        assert (zero[shift:] & zero[:-shift]).mean() == pytest.approx(zero.mean() ** 2, abs=0.002)
    assert dropout(x, 0.1, None) is x
    assert dropout(x, 0.0, jax.random.key(1)) is x


@pytest.mark.long
def test_dropout_is_on_in_training_only(golden):
    model = BertClassifier(
        bert("bert", dropout=0.3), open_checkpoint("bert").tensors(), 3, rng=np.random.default_rng(0)
    )
    packed = pack(jnp.asarray(golden["bert_ids"]), jnp.asarray(golden["bert_lengths"]), 23)
    once, again = (model(packed, train=True, key=jax.random.key(i)) for i in (0, 1))
    assert not np.allclose(once, again)
    np.testing.assert_array_equal(model(packed), model(packed))
