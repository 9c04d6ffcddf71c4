"""What every family of pretrained networks has in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.pretrained import Checkpoint, Tensors


@dataclass(frozen=True)
class Options:
    """What a backbone takes from the config, whatever its family.

    Attributes:
        dtype: of activations; parameters, statistics and features are float32.
        dropout: rate of transformers, in training.
        unroll: how many layers of a transformer are compiled one after the other as a turn of a loop; True: all.
        image_size: side of the images in pixels; the checkpoint's if None.
        norm: `norm(channels, epsilon=...)` makes the batch normalization of convolutional networks; layers.BatchNorm
            if None.
    """

    dtype: Any = jnp.float32
    dropout: float = 0.0
    unroll: bool | int = False
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


def parameter_depths(backbone: Any) -> nnx.State:
    """Depth of each parameter, by which its learning rate may decay.

    0 below the layers, 1 to L in them, L + 1 above. The layers are the backbone's attribute `layers` or `blocks`: a
    list of modules, or one module whose parameters are stacked, [L, ...]. Its attribute `above`, if it has one, names
    the attributes that come after the layers.

    Returns:
        Like `nnx.state(backbone, nnx.Param)`, float32 arrays that broadcast to the parameters: [L, 1, ...] or [].
    """
    state = nnx.state(backbone, nnx.Param)
    parts = backbone.layers if hasattr(backbone, "layers") else backbone.blocks
    listed = isinstance(parts, nnx.List)
    count = len(parts) if listed else len(jax.tree.leaves(nnx.state(parts, nnx.Param))[0])

    def depth(path, parameter):
        if path[0].key not in ("layers", "blocks"):
            return np.float32(count + 1 if path[0].key in getattr(backbone, "above", ()) else 0)
        if listed:
            return np.float32(path[1].key + 1)
        return np.arange(1, count + 1, dtype=np.float32).reshape(-1, *[1] * (parameter.ndim - 1))

    return jax.tree.map_with_path(depth, state)
