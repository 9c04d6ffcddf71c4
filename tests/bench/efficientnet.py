"""EfficientNet-Lite0 against torch's: features of images, and fine-tuning steps. Both have random weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.data.augment import in_lanes, to_lanes
from rgjax.models.backbone import Options
from rgjax.models.classifier import Classifier
from rgjax.models.efficientnet import EfficientNetLite
from rgjax.training.feed import HostData
from tests.bench.case import Case
from tests.bench.machine import torch_is_ready
from tests.bench.program import CLASSES, train_program

BATCH = 64


def efficientnet_features(size: int = 128, batch: int = BATCH) -> Case:
    """The features of a batch, as the encoder computes them."""
    graph, state = nnx.split(_network())
    images = jnp.asarray(np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32))
    features = jax.jit(lambda state, images: nnx.merge(graph, state).features(images))

    def theirs():
        from tests.bench.torch_efficientnet import features

        return features(size=size, batch=batch)

    facts = {"size": size, "batch": batch, "precision": "float32"}
    return Case(lambda: jax.block_until_ready(features(state, images)), _torch(theirs), facts)


def efficientnet_step(size: int = 112, batch: int = BATCH, steps: int = 1) -> Case:
    """A step of SGD on all parameters; ours also draws, flips and rotates its images."""
    model = Classifier(_network(), CLASSES["sgd"], rng=np.random.default_rng(0))
    images = np.random.default_rng(0).integers(0, 256, (8 * batch, size, size, 3), np.uint8)
    _, prepare = in_lanes(images[:1])
    host, augment = HostData(images, to_lanes), {"flip": 0.5, "rotation": 15.0}

    def theirs():
        from tests.bench.torch_efficientnet import train_steps

        return train_steps(size=size, batch=batch, steps=steps)

    ours = train_program(model, prepare, host, augment, optimizer="sgd", batch=batch, steps=steps)
    return Case(ours, _torch(theirs), {"per_call": steps, "size": size, "batch": batch, "precision": "float32"})


def _network() -> EfficientNetLite:
    return EfficientNetLite("efficientnet-lite0", Options(), rng=np.random.default_rng(0))


def _torch(make: Callable[[], Callable[[], None]]) -> dict[str, Callable[[], None]] | None:
    return {"torch channels_last": make()} if torch_is_ready() else None
