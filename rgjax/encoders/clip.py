"""Image embeddings by CLIP (Radford et al. 2021), with its own preprocessing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from rgjax.encoders.encoder import Encoder
from rgjax.models.backbone import Options
from rgjax.models.pretrained import Checkpoint
from rgjax.models.vit_families import CLIP
from rgjax.sharding import in_batches, over_devices
from rgjax.storage.files import digest

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_BATCH = 64  # images per device


def clip(checkpoint: Checkpoint, *, unit_length: bool) -> Encoder:
    """The encoder of uint8 images [N, H, W, 3] by a CLIP checkpoint.

    Features are float32, L2-normalized if `unit_length`.
    """
    config = CLIP.settings(checkpoint)

    def encode(images: np.ndarray) -> np.ndarray:
        graph, params = nnx.split(checkpoint.build(lambda tensors: CLIP.build(tensors, config, Options())))

        def forward(params, batch):
            mean, std = (jnp.array(v, jnp.float32).reshape(1, 1, 1, 3) for v in (_MEAN, _STD))
            network: Any = nnx.merge(graph, params)
            embeddings = network.features((batch.astype(jnp.float32) / 255 - mean) / std)
            return embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True) if unit_length else embeddings

        order = in_batches(np.arange(len(images)), _BATCH * jax.local_device_count())
        batches = (preprocess(images[indices], config["image_size"]) for indices in order)
        return over_devices(forward, params, batches, what="encode", total=len(order))[: len(images)]

    return Encoder(digest("clip-v1", checkpoint.fingerprint(), unit_length), encode)


def preprocess(images: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` (bicubic) and crop the center.

    uint8 [N, H, W, 3] -> [N, size, size, 3], bit for bit as by CLIPImageProcessor. By Pillow on the host, whose
    rounding no resize on a device reproduces; it takes less than a tenth of the network's time.
    """
    height, width = images.shape[1:3]
    short = min(height, width)
    new_height, new_width = size * height // short, size * width // short
    top, left = (new_height - size) // 2, (new_width - size) // 2
    box = np.s_[top : top + size, left : left + size]
    resized = (Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC) for image in images)
    return np.stack([np.asarray(image)[box] for image in resized])
