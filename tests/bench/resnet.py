"""ResNet34's training step against torch's, the share that the data path has in it, and four trials in one program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.data.augment import in_lanes, to_lanes
from rgjax.models.resnet import STAGES, ResNet
from rgjax.training.feed import HostData
from rgjax.training.program import take
from tests.bench.case import Case
from tests.bench.machine import torch_is_ready
from tests.bench.program import train_program

AUGMENT = {"flip": 0.5, "rotation": 15.0}


class Shape(NamedTuple):
    """Images of `size` pixels in batches; `steps` in a call, which takes a second or more as in the training loop."""

    size: int
    batch: int
    stem: str = "imagenet"
    steps: int = 3


SMALL, LARGE = Shape(32, 128), Shape(224, 8, steps=3)


def resnet34_32() -> Case:
    return _against_torch(SMALL)


def resnet34_224() -> Case:
    return _against_torch(LARGE)


def resnet34_32_cifar_stem() -> Case:
    return _against_torch(Shape(32, 128, "cifar", steps=1))


def data_path_32() -> Case:
    return _data_path(SMALL)


def data_path_224() -> Case:
    return _data_path(LARGE)


def streamed_32() -> Case:
    return _streamed(SMALL)


def streamed_224() -> Case:
    return _streamed(LARGE)


def population4() -> Case:
    """The lone program has as many steps in a call as the population's, and is called once for each trial."""
    trials, shape = 4, Shape(32, 64, steps=3)
    lone = _ours(shape)

    def one_after_another():
        for _ in range(trials):
            lone()

    facts = _facts(shape) | {"per_call": trials * shape.steps, "trials": trials}
    return Case(_ours(shape, trials=trials), {"one after another": one_after_another}, facts)


def _against_torch(shape: Shape) -> Case:
    return Case(_ours(shape), _theirs(shape), _facts(shape))


def _data_path(shape: Shape) -> Case:
    """Rows gathered, augmented and normalized, against the whole training step that contains it.

    By itself it writes its batch to memory, which the training program may avoid: the share is an upper bound.
    """
    stored, prepare = in_lanes(_images(shape))
    images = jax.device_put(stored)
    rows = jnp.asarray(np.random.default_rng(1).integers(0, len(images), (shape.steps, shape.batch), np.int32))

    @jax.jit
    def batches(images, rows, key, augment):
        def body(i, _):
            keys = jax.random.split(jax.random.fold_in(key, i), shape.batch)
            return prepare(take(images, rows[i], 1), keys, **augment)

        return jax.lax.fori_loop(0, shape.steps, body, jnp.zeros((shape.batch, shape.size, shape.size, 3)))

    augment = {name: jnp.float32(value) for name, value in AUGMENT.items()}
    facts = _facts(shape)
    del facts["flops"]  # those of the training step
    return Case(
        lambda: jax.block_until_ready(batches(images, rows, jax.random.key(0), augment)),
        {"whole step": _ours(shape)},
        facts,
    )


def _streamed(shape: Shape) -> Case:
    """Batches that the host reads while the device computes, against the same out of the device's memory."""
    return Case(_ours(shape, streamed=True), {"resident": _ours(shape)}, _facts(shape))


def _ours(shape: Shape, **more) -> Callable[[], None]:
    model = ResNet("resnet34", 10, stem=shape.stem, rng=np.random.default_rng(0))
    images = _images(shape)
    _, prepare = in_lanes(images[:1])
    host = HostData(images, to_lanes)
    return train_program(model, prepare, host, AUGMENT, optimizer="sgd", batch=shape.batch, steps=shape.steps, **more)


def _images(shape: Shape) -> np.ndarray:
    """Several times what the caches hold, so that the gather reads memory as it does in a real data set."""
    count = max(shape.steps * shape.batch, 100_000_000 // (3 * shape.size**2))
    return np.random.default_rng(0).integers(0, 256, (count, shape.size, shape.size, 3), np.uint8)


def _theirs(shape: Shape) -> dict[str, Callable[[], None]] | None:
    if not torch_is_ready():
        return None
    import torch

    from tests.bench.torch_resnet import train_steps

    return {
        name: train_steps(size=shape.size, batch=shape.batch, stem=shape.stem, steps=shape.steps, memory_format=layout)
        for name, layout in (("torch NCHW", torch.contiguous_format), ("torch channels_last", torch.channels_last))
    }


def _facts(shape: Shape) -> dict:
    sizes = {"size": shape.size, "batch": shape.batch, "stem": shape.stem}
    return {"per_call": shape.steps, **sizes, "precision": "float32", "flops": flops(shape)}


def flops(shape: Shape) -> float:
    """Of a training step, by its direct convolutions: taps beyond the border do not count, nor what a lowering adds.

    What a lowering saves is not taken off, so Winograd's convolution may come out above the peak of products.
    """
    size, c_in = shape.size, 64
    kernel, stride = (7, 2) if shape.stem == "imagenet" else (3, 1)
    total = 2 * _products(size, kernel, stride, 3, c_in)  # its input needs no gradient
    size = -(-size // 4) if shape.stem == "imagenet" else size
    for stage, depth in enumerate(STAGES["resnet34"]):
        c_out = 64 * 2**stage
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            total += 3 * _products(size, 3, stride, c_in, c_out)
            if stride != 1:
                total += 3 * _products(size, 1, stride, c_in, c_out)
            size, c_in = -(-size // stride), c_out
            total += 3 * _products(size, 3, 1, c_in, c_out)
    return 2.0 * shape.batch * total


def _products(size: int, kernel: int, stride: int, c_in: int, c_out: int) -> int:
    """Multiplications of a convolution's forward pass for one image; each of its two gradients takes as many."""
    offsets = range(-(kernel // 2), kernel // 2 + 1)
    taps = sum(0 <= start + offset < size for start in range(0, size, stride) for offset in offsets)
    return taps * taps * c_in * c_out
