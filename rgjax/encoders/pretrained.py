"""Features of pretrained networks: of pictures at the network's own size."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.data.images import map_in_threads
from rgjax.data.pictures.decode import Encoded, Original, Unreadable, decode_whole
from rgjax.encoders.encoder import Encoder
from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.families import Pretrained
from rgjax.models.preprocessing import Preprocessing
from rgjax.sharding import on_devices, over_batches
from rgjax.storage.files import digest

_PIXELS = 64 * 224**2  # of a batch, per device


def pretrained_images(network: Pretrained, *, image_size: int | None = None, unit_length: bool = False) -> Encoder:
    """The encoder of pictures [N] by a pretrained network: [N, D].

    Args:
        network: of images.
        image_size: side of the pixels that it sees; its own if None.
        unit_length: scale the features to length 1.
    """
    preprocessing = network.preprocessing
    if image_size:
        preprocessing = preprocessing.at(image_size)

    @cache  # predictions come in chunks
    def on_all_devices() -> Callable:
        graph, state = nnx.split(network.build(Options(image_size=preprocessing.size)))

        def forward(state, images):
            backbone: Any = nnx.merge(graph, state, copy=True)
            features = backbone.features(preprocessing.normalize(images))
            return features / jnp.linalg.norm(features, axis=1, keepdims=True) if unit_length else features

        return on_devices(forward, state)

    def encode(pictures: Sequence[Original]) -> np.ndarray:
        size = max(1, min(64, _PIXELS // preprocessing.size**2)) * jax.local_device_count()
        batches = pixel_batches(pictures, preprocessing, size)
        return over_batches(on_all_devices(), batches, what="encode", total=len(pictures), unit="image")

    key = digest("images-v1", network.checkpoint.fingerprint(), repr(preprocessing), unit_length)
    return Encoder(key, encode, "pictures", {**network.checkpoint.identity(), "image_size": preprocessing.size})


def pixel_batches(pictures: Sequence[Original], preprocessing: Preprocessing, size: int) -> Iterator[np.ndarray]:
    """Pixels uint8 [size, S, S, 3] of the pictures in order, decoded in threads.

    The last batch is filled up with its first pictures. Raises UserError for a picture that cannot be read.
    """

    def pixels(picture: Encoded) -> np.ndarray:
        return preprocessing(decode_whole(picture))

    decoded = enumerate(map_in_threads(pixels, pictures))
    while batch := list(islice(decoded, size)):
        images = []
        for index, image in batch:
            if isinstance(image, Unreadable):
                raise UserError(f"picture {pictures[index]} can no longer be read: {image}")
            images.append(image)
        yield np.resize(np.stack(images), (size, *images[0].shape))
