"""Training programs of small networks on random data, for tests. No array is made on import."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.data.augment import prepare_images
from rgjax.losses import cross_entropy
from rgjax.models.factory import padded
from rgjax.models.layers import BatchNorm
from rgjax.models.packing import mean_tokens
from rgjax.models.resnet import ResNet
from rgjax.models.tokenizer import Tokens
from rgjax.sharding import AXIS, make_mesh
from rgjax.training.layout import TREES, Layout
from rgjax.training.program import HyperParams, StepSpec, TrainData, TrainState, draw_epoch, init_state, make_run_steps

BATCH, EXAMPLES, IMAGES, CLASSES, SIZE = 8, 32, 40, 3, 8
STEPS_PER_EPOCH = EXAMPLES // BATCH


class Dense(nnx.Module):
    """A network that compiles in no time: of images, or of the mean of token embeddings."""

    def __init__(self, words: int = 0, outputs: int = padded(CLASSES)):
        rng = np.random.default_rng(0)

        def draw(*shape):
            return nnx.Param(jnp.asarray(rng.standard_normal(shape, np.float32) / np.float32(8)))

        self.embedding = draw(words, 16) if words else None
        self.hidden = draw(16 if words else SIZE * SIZE * 3, 16)
        self.norm = BatchNorm(16, axis=AXIS)
        head = draw(16, CLASSES)
        self.head = nnx.Param(jnp.pad(head[...], ((0, 0), (0, outputs - CLASSES))))

    def __call__(self, x, train=False, key=None):
        if self.embedding is not None:
            x = mean_tokens(self.embedding[...][x.ids], x)
        hidden = x.reshape(x.shape[0], -1) @ self.hidden[...]
        return jax.nn.relu(self.norm(hidden[:, None, None], train)[:, 0, 0]) @ self.head[...]


def images(count: int = 700) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def tokens(count: int = 700) -> Tokens:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 13, count, np.int32)
    return Tokens(np.where(np.arange(12) < lengths[:, None], rng.integers(0, 50, (count, 12), np.int32), 0), lengths)


def resnet(outputs: int = CLASSES, **settings) -> ResNet:
    return ResNet("resnet10", outputs, width=4, rng=np.random.default_rng(0), **settings)


def key() -> jax.Array:
    """The key of a population of one."""
    return jax.random.key(0)[None]


def one(tree):
    """The arrays [1, ...] of a population of one."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def copy(state: TrainState) -> TrainState:
    """What a call may donate."""
    return jax.tree.map(jnp.copy, state)


def assert_same_bits(ours, theirs) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def train_data(size: int = SIZE, classes: int = CLASSES) -> TrainData:
    """40 images, of which all but the first 4 and last 4 are trained on."""
    rng = np.random.default_rng(0)
    return TrainData(
        inputs=jnp.asarray(rng.integers(0, 256, (IMAGES, size, size, 3), np.uint8)),
        indices=jnp.arange(4, 4 + EXAMPLES, dtype=jnp.int32),
        labels=jnp.asarray(rng.integers(0, classes, EXAMPLES, np.int32)),
        pool=jnp.arange(EXAMPLES, dtype=jnp.int32),
    )


def hyper_params(classes: int = CLASSES, **changes) -> HyperParams:
    """Of one trial, without the axis of a population."""
    ones = np.ones(classes, np.float32)
    hyper = HyperParams(
        lr=0.05, momentum=0.9, weight_decay=1e-4, warmup_steps=0, total_steps=8,
        augmentation={"flip": 0.5, "rotation": 15.0}, loss={}, class_weights=ones, drw_weights=ones, drw_start=8,
        outputs=classes,
    )._replace(**changes)  # fmt: skip
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.int32 if isinstance(v, int) else jnp.float32), hyper)


def step_spec(
    graph: nnx.GraphDef, loss=cross_entropy, *, optimizer="sgd", mesh=None, layout: Layout = TREES, **settings
) -> StepSpec:
    return StepSpec(
        graph=graph,
        loss=loss,
        prepare=prepare_images,
        optimizer=optimizer,
        batch_size=BATCH,
        steps_per_epoch=STEPS_PER_EPOCH,
        mesh=mesh or make_mesh(jax.devices()[:1], trials=1, batch_size=BATCH),
        layout=layout,
        **settings,
    )


class Program:
    """A compiled training program and the arguments of its first call, for one trial."""

    def __init__(self, model: nnx.Module | None = None, loss=cross_entropy, **settings):
        graph, state = init_state(model or Dense(), "sgd")
        self.spec = step_spec(graph, loss, **settings)
        self.run_steps = make_run_steps(self.spec)
        self.state, self.hyper, self.data = one(state), one(hyper_params()), train_data()

    def run(self, count: int, state: TrainState | None = None, **changes):
        """`count` steps from `state`, or from the beginning, with other `data` or hyper-parameters."""
        data = changes.pop("data", self.data)
        hyper = self.hyper._replace(**changes)
        return self.run_steps(copy(state or self.state), jnp.int32(count), data, hyper, key())


def infinite_loss(logits, labels):
    """Infinite for examples of class 2, with a gradient that is finite."""
    return cross_entropy(logits, labels) + jnp.where(labels == 2, jnp.inf, 0.0)


def infinite_gradient(logits, labels):
    """Finite, except for its gradient for examples of class 2."""
    zero = (logits - jax.lax.stop_gradient(logits)).sum(axis=1)
    return cross_entropy(logits, labels) + jnp.sqrt(jnp.where(labels == 2, zero, 1.0))


def with_one_bad_example(data: TrainData, step: int = 2) -> TrainData:
    """The data with a single example of class 2, which that step of the first epoch is trained on."""
    positions = draw_epoch(key()[0], jnp.int32(0), data.pool, STEPS_PER_EPOCH, BATCH)[step]
    return data._replace(labels=(data.labels % 2).at[positions[BATCH - 1]].set(2))
