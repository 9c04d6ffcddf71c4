"""What every family of pretrained networks has in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from rgjax.models.pretrained import Checkpoint, Tensors


@dataclass(frozen=True)
class Options:
    """What a backbone takes from the config, whatever its family.

    Attributes:
        dtype: of activations; parameters, statistics and features are float32.
        dropout: rate of transformers, in training.
        unroll: compile the layers of transformers one after the other instead of as a loop.
        image_size: side of the images in pixels; the checkpoint's if None.
        norm: `norm(channels, epsilon=...)` makes the batch normalization of convolutional networks; layers.BatchNorm
            if None.
    """

    dtype: Any = jnp.float32
    dropout: float = 0.0
    unroll: bool = False
    image_size: int | None = None
    norm: Callable[..., nnx.Module] | None = None


class Family(NamedTuple):
    """A family of pretrained networks.

    Attributes:
        kind: of its inputs, "images" or "sentences".
        settings: the checked settings of a checkpoint; raises UserError for impossible ones.
        build: the backbone of its tensors and settings.
        preprocessing: of pictures, where a checkpoint has no settings for it, in the terms of
            preprocessor_config.json.
    """

    kind: str
    settings: Callable[[Checkpoint], dict[str, Any]]
    build: Callable[[Tensors, dict[str, Any], Options], nnx.Module]
    preprocessing: Mapping[str, Any] = {}
