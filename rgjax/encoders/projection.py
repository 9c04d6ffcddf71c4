"""Features of an untrained network: the paper's ablation "random projection" (RP)."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from rgjax.data.augment import prepare_images
from rgjax.encoders.encoder import Encoder
from rgjax.models.resnet import ResNet
from rgjax.sharding import in_batches, over_devices
from rgjax.storage.files import digest

_BATCH = 128  # images per device


def projection(*, seed: int) -> Encoder:
    """A randomly initialized ResNet18 as an encoder of uint8 images [N, H, W, 3].

    Features are its penultimate activations [N, 512]. Batch normalization uses the statistics of the first images: with
    its initial statistics, the features would show little more than brightness.
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

    return Encoder(digest("projection-v1", seed), encode, about={"name": "projection", "seed": seed})


def encode_images(forward: Callable, params, images: np.ndarray, normalization: Callable | None = None) -> np.ndarray:
    """Features [N, D] of uint8 images [N, H, W, 3].

    Args:
        forward: `(params, normalized images [B, H, W, 3]) -> [B, D]`, the network.
        params: its parameters.
        images: uint8 [N, H, W, 3].
        normalization: as of `prepare_images`.
    """
    order = in_batches(np.arange(len(images)), _BATCH * jax.local_device_count())
    return over_devices(
        lambda params, batch: forward(params, prepare_images(batch, normalization=normalization)),
        params,
        (images[indices] for indices in order),
        what="encode",
        total=len(images),
        unit="image",
    )


def _batch_statistic(after, before):
    """The statistic of one batch, from the running averages before and after it.

    It solves `after = 0.9 * before + 0.1 * statistic`. A momentum of 1 would give it directly, but with another last
    bit: cached features and recorded results would no longer be reproduced.
    """
    return (after - 0.9 * before) / 0.1
