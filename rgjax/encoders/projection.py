"""Features of an untrained network: the paper's random projection (RP), an ablation of the pretrained encoders."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from rgjax.data.augment import prepare_images
from rgjax.encoders.encoder import Encoder
from rgjax.models.resnet import ResNet
from rgjax.sharding import in_batches, over_devices
from rgjax.storage.files import digest

_BATCH = 128  # a device


def projection(*, seed: int) -> Encoder:
    """The encoder of uint8 images [N, H, W, 3] by a randomly initialized ResNet18: penultimate activations [N, 512].

    The convolutions stay as they were drawn; each normalization takes its statistics from the first images,
    because without that the untrained network passes on little but overall brightness.
    """

    def encode(images: np.ndarray) -> np.ndarray:
        graph, state = nnx.split(ResNet("resnet18", 1, rng=np.random.default_rng(seed)))

        @jax.jit
        def calibrate(state, batch):
            model = nnx.merge(graph, state, copy=True)
            model.features(prepare_images(batch), train=True)
            stats = nnx.state(model, nnx.BatchStat)
            return jax.tree.map(_batch_statistic, stats, nnx.state(nnx.merge(graph, state), nnx.BatchStat))

        first = np.resize(np.arange(len(images)), _BATCH)
        state = nnx.merge_state(state, calibrate(state, images[first]))
        return encode_images(lambda state, x: nnx.merge(graph, state, copy=True).features(x), state, images)

    return Encoder(digest("projection-v1", seed), encode)


def encode_images(forward: Callable, params, images: np.ndarray) -> np.ndarray:
    """`forward(params, normalized images) -> [B, D]` of all uint8 images [N, H, W, 3]: [N, D]."""
    order = in_batches(np.arange(len(images)), _BATCH * jax.local_device_count())
    found = over_devices(
        lambda params, batch: forward(params, prepare_images(batch)),
        params,
        (images[rows] for rows in order),
        what="encode",
        total=len(order),
    )
    return found[: len(images)]


def _batch_statistic(after, before):
    """What one batch measured, recovered from the running average (momentum 0.1) that it was blended into."""
    return (after - 0.9 * before) / 0.1
