"""This repository's training program, set up on random data as a callable that trains for some steps."""

from collections.abc import Callable
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.losses import cross_entropy
from rgjax.sharding import make_mesh, put, trial_sharded
from rgjax.training.feed import DeviceFeed, HostData, StreamFeed
from rgjax.training.loop import TrainSchedule
from rgjax.training.program import HyperParams, StepSpec, TrainState, init_state, make_run_steps

CLASSES = {"sgd": 10, "adamw": 3}
RATES = {"sgd": 0.01, "adamw": 2e-5}
DECAYS = {"sgd": 1e-4, "adamw": 0.01}
LAST = 1_000_000  # step, which no measurement comes to


def train_program(
    model: nnx.Module,
    prepare: Callable,
    host: HostData,
    augmentation: dict[str, float],
    *,
    optimizer: str,
    batch: int,
    steps: int,
    trials: int = 1,
    streamed: bool = False,
) -> Callable[[], None]:
    """A call trains each of `trials` copies of `model` for `steps` steps, an epoch of its data set `host`, which
    lies on the device or is streamed to it.

    The place to adapt when the program of rgjax.training.program changes.
    """
    graph, state = init_state(model, optimizer)
    rows = len(jax.tree.leaves(host.inputs)[0])
    labels = np.random.default_rng(0).integers(0, CLASSES[optimizer], rows, np.int32)
    everything = np.arange(rows, dtype=np.int32)
    mesh = make_mesh(jax.devices(), trials=trials, batch_size=batch)
    run = make_run_steps(StepSpec(graph, cross_entropy, prepare, optimizer, batch, steps, mesh))
    plan = TrainSchedule(LAST, steps, steps, 0, None, LAST, LAST, batch)
    data = everything, labels, everything
    feed = StreamFeed(host, data, plan, mesh, [jax.random.key(0)]) if streamed else DeviceFeed(host, data, plan, mesh)
    key, hyper = jax.random.key(0), make_hyper(optimizer, augmentation)
    own = jax.tree.map(lambda x: jnp.stack([x] * trials), (state, hyper, key))
    state, hyper, key = put(own, trial_sharded(mesh))
    holder: list[TrainState] = [state]
    first_steps = count(0, steps)

    def train():
        holder[0], _ = jax.block_until_ready(run(holder[0], jnp.int32(steps), feed.at(next(first_steps)), hyper, key))

    return train


def make_hyper(optimizer: str, augmentation: dict[str, float]) -> HyperParams:
    ones = np.ones(CLASSES[optimizer], np.float32)
    hyper = HyperParams(
        lr=RATES[optimizer], momentum=0.9, weight_decay=DECAYS[optimizer], warmup_steps=0, total_steps=LAST,
        augmentation=augmentation, outputs=CLASSES[optimizer],
        loss={}, class_weights=ones, drw_weights=ones, drw_start=LAST,
    )  # fmt: skip
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.int32 if isinstance(v, int) else jnp.float32), hyper)
