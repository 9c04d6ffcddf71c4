"""Sentence features by BERT (Devlin et al. 2019)."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from rgjax.encoders.encoder import Encoder
from rgjax.models.bert import Bert, bert_config
from rgjax.models.packing import first_tokens, mean_tokens, pack
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import FILES, Tokens, tokenize
from rgjax.sharding import in_batches, over_devices
from rgjax.storage.files import digest

POOLINGS = {"mean": mean_tokens, "cls": first_tokens}
_BATCH = 32  # sentences per device
_BUCKET = 16  # tokens


def bert(checkpoint: Checkpoint, *, pooling: str, max_length: int) -> Encoder:
    """The encoder of sentences [N] by a BERT checkpoint: [N, hidden_size], in float32.

    Args:
        checkpoint: weights and tokenizer.
        pooling: a key of `POOLINGS`.
        max_length: tokens at which sentences are cut.
    """
    config = bert_config(checkpoint)

    def encode(sentences: np.ndarray) -> np.ndarray:
        graph, params = nnx.split(checkpoint.build(lambda tensors: Bert(tensors, config)))

        def forward(params, packed):
            return POOLINGS[pooling](nnx.merge(graph, params)(packed), packed)

        return encode_tokens(forward, params, tokenize(checkpoint, config, sentences, max_length))

    return Encoder(digest("bert-v1", checkpoint.fingerprint(*FILES), pooling, max_length), encode)


def encode_tokens(forward: Callable, params, tokens: Tokens, *, bucket: int = _BUCKET) -> np.ndarray:
    """Run a network over all sentences, in batches of similar length.

    Args:
        forward: `(params, Packed) -> [B, D]`.
        params: what it reads.
        tokens: of the N sentences.
        bucket: batches are padded to a multiple of so many tokens, so that few programs are compiled.

    Returns:
        [N, D] float32, in the order of the sentences.
    """
    order = in_batches(np.argsort(tokens.lengths, kind="stable"), _BATCH * jax.local_device_count())
    longest = tokens.ids.shape[1]

    def batch(indices):
        width = min(longest, -(-int(tokens.lengths[indices].max()) // bucket) * bucket)
        return Tokens(tokens.ids[indices, :width], tokens.lengths[indices])

    def packed(params, batch):
        return forward(params, pack(batch.ids, batch.lengths, batch.ids.size))

    by_length = over_devices(packed, params, map(batch, order), what="encode", total=len(order))
    features = np.empty((len(tokens.lengths), by_length.shape[1]), np.float32)
    features[order.ravel()] = by_length
    return features
