"""Sentence features of BERT (Devlin et al. 2019)."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from rgjax.encoders.encoder import Encoder
from rgjax.models.packing import first_tokens, mean_tokens, pack
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import FILES, Tokens, tokenize
from rgjax.models.transformer import Bert, bert_config
from rgjax.sharding import in_batches, over_devices
from rgjax.storage.files import digest

POOLINGS = {"mean": mean_tokens, "cls": first_tokens}
_BATCH = 32  # a device
_BUCKET = 16  # tokens


def bert(checkpoint: Checkpoint, *, pooling: str, max_length: int) -> Encoder:
    """The encoder of sentences [N] by a BERT checkpoint, in float32."""
    config = bert_config(checkpoint)

    def encode(sentences: np.ndarray) -> np.ndarray:
        graph, params = nnx.split(checkpoint.build(lambda tensors: Bert(tensors, config)))

        def forward(params, packed):
            return POOLINGS[pooling](nnx.merge(graph, params)(packed), packed)

        return encode_tokens(forward, params, tokenize(checkpoint, config, sentences, max_length))

    return Encoder(digest("bert-v1", checkpoint.fingerprint(*FILES), pooling, max_length), encode)


def encode_tokens(forward: Callable, params, tokens: Tokens, *, bucket: int = _BUCKET) -> np.ndarray:
    """`forward(params, Packed) -> [B, D]` of all sentences [N, D] float32; those of like length go together, padded
    to a multiple of `bucket` tokens."""
    order = in_batches(np.argsort(tokens.lengths, kind="stable"), _BATCH * jax.local_device_count())
    longest = tokens.ids.shape[1]

    def batch(rows):
        width = min(longest, -(-int(tokens.lengths[rows].max()) // bucket) * bucket)
        return Tokens(tokens.ids[rows, :width], tokens.lengths[rows])

    def packed(params, batch):
        return forward(params, pack(batch.ids, batch.lengths, batch.ids.size))

    found = over_devices(packed, params, map(batch, order), what="encode", total=len(order))
    features = np.empty((len(tokens.lengths), found.shape[1]), np.float32)
    features[order.ravel()] = found
    return features
