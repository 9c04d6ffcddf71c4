"""Features of an untrained network: the paper's random projection (RP), an ablation of the pretrained encoders."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.data.augment import normalise
from rgjax.models.resnet import ResNet
from rgjax.progress import progress

_BATCH = 128


def projection(inputs: np.ndarray, *, seed: int) -> np.ndarray:
    """Penultimate activations [N, 512] float32 of a randomly initialised ResNet18 for uint8 images [N, H, W, 3].

    The convolutions stay as they were drawn; each normalisation takes its statistics from the first images,
    because without that the untrained network passes on little but overall brightness.
    """
    graph, state = nnx.split(ResNet("resnet18", 1, rng=np.random.default_rng(seed)))

    @jax.jit
    def calibrate(state, images):
        model = nnx.merge(graph, state, copy=True)
        model.features(_prepared(images), train=True)
        stats = nnx.state(model, nnx.BatchStat)
        return jax.tree.map(_batch_statistic, stats, nnx.state(nnx.merge(graph, state), nnx.BatchStat))

    @jax.jit
    def encode(state, images):
        return nnx.merge(graph, state, copy=True).features(_prepared(images))

    batches = np.resize(np.arange(len(inputs)), -(-len(inputs) // _BATCH) * _BATCH).reshape(-1, _BATCH)
    state = nnx.merge_state(state, calibrate(state, inputs[batches[0]]))
    features = [np.asarray(encode(state, inputs[rows])) for rows in progress(batches, "encode", unit="batch")]
    return np.concatenate(features)[: len(inputs)]


def _prepared(images):
    return normalise(jnp.asarray(images).astype(jnp.float32))


def _batch_statistic(after, before):
    """What one batch measured, recovered from the running average (momentum 0.1) that it was blended into."""
    return (after - 0.9 * before) / 0.1
