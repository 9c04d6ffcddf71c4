"""Features of pretrained networks: of pictures at the network's own size."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.data.images import map_in_threads
from rgjax.data.pictures.decode import Encoded, Original, Unreadable, decode_whole
from rgjax.encoders.encoder import Encoder, named_dtype
from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.families import Pretrained
from rgjax.models.preprocessing import Preprocessing
from rgjax.sharding import OnDevices, over_batches
from rgjax.storage.files import digest

# Images of a batch per device, and pixels: on CPUs, and at most on accelerators.
_CACHED, _MOST = (64, 64 * 224**2), (1024, 512 * 224**2)


def pretrained_images(
    network: Pretrained, *, dtype: str = "float32", image_size: int | None = None, unit_length: bool = False
) -> Encoder:
    """The encoder of pictures [N] by a pretrained network: [N, D].

    Args:
        network: of images.
        dtype: of activations.
        image_size: side of the pixels that it sees; its own if None.
        unit_length: scale the features to length 1.
    """
    preprocessing = network.preprocessing
    if image_size:
        preprocessing = preprocessing.at(image_size)

    @cache  # predictions come in chunks
    def on_all_devices() -> OnDevices:
        graph, state = nnx.split(network.build(Options(dtype=jnp.dtype(dtype), image_size=preprocessing.size)))

        def forward(state, images):
            backbone: Any = nnx.merge(graph, state, copy=True)
            features = backbone.features(preprocessing.normalize(images))
            return features / jnp.linalg.norm(features, axis=1, keepdims=True) if unit_length else features

        return OnDevices(forward, state)

    def encode(pictures: Sequence[Original]) -> np.ndarray:
        forward, side = on_all_devices(), preprocessing.size
        cached, most = (max(1, min(images, pixels // side**2)) for images, pixels in (_CACHED, _MOST))
        size = forward.batch_size(
            lambda count: jax.ShapeDtypeStruct((count, side, side, 3), np.uint8), cached=cached, most=most
        )
        batches = pixel_batches(pictures, preprocessing, size)
        return over_batches(forward, batches, what="encode", total=len(pictures), unit="image")

    fingerprint = network.checkpoint.fingerprint()
    key = digest("images-v1", fingerprint, repr(preprocessing), unit_length, *named_dtype(dtype))
    about = {**network.checkpoint.identity(), "image_size": preprocessing.size, "dtype": dtype}
    return Encoder(key, encode, "pictures", about)


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
        yield np.stack([images[i % len(images)] for i in range(size)])
