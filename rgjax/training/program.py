"""The training program: one call of the device draws rows, augments, differentiates and updates for many steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from rgjax.balance.samplers import epoch_rows
from rgjax.data.augment import augment, normalise
from rgjax.losses import weighted_mean
from rgjax.training.optimizer import OPTIMIZERS, cosine_decay


@struct.dataclass
class TrainState:
    """All that changes in training, as one pytree: parameters, batch statistics, optimiser state, step count."""

    params: Any
    batch_stats: Any
    opt_state: Any
    step: jax.Array


class TrainData(NamedTuple):
    """What training reads, on the device: `inputs` [M, H, W, 3] uint8 of the whole data set, the `rows` [N] of it
    that are trained on, their (pseudo-)labels `labels` [N], and the sampler's `pool` [P] of positions in 0..N-1."""

    inputs: jax.Array
    rows: jax.Array
    labels: jax.Array
    pool: jax.Array


class Hyper(NamedTuple):
    """Every number that a grid search may vary; traced, so that no value of it causes a compilation.

    `class_weights` [K] weigh the loss until the step `drw_start`, `drw_weights` [K] from then on.
    """

    lr: Any
    momentum: Any
    weight_decay: Any
    warmup_steps: Any
    total_steps: Any
    flip: Any
    rotation: Any
    loss: dict[str, Any]
    class_weights: Any
    drw_weights: Any
    drw_start: Any


class Totals(NamedTuple):
    """Sums over the steps of one call."""

    loss: jax.Array
    correct: jax.Array


def init_state(model: nnx.Module, optimizer: str) -> tuple[nnx.GraphDef, TrainState]:
    """The network's structure, and its state before the first step."""
    graph, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    opt_state = jax.jit(OPTIMIZERS[optimizer](0.0, 0.0, 0.0).init)(params)
    return graph, TrainState(params, batch_stats, opt_state, jnp.zeros((), jnp.int32))


def make_run_steps(
    graph: nnx.GraphDef, loss: Callable, *, optimizer: str, batch_size: int, steps_per_epoch: int
) -> jax.stages.Wrapped:
    """The jitted `(state, count, data, hyper, key) -> (state, Totals)` that trains for `count` steps of one epoch.

    All randomness is folded from `key` by epoch and by step, so neither an interruption nor another number
    of steps in a call changes a single bit. The number of steps is traced: any count runs the same program.
    `loss(logits [B, K], labels [B], **hyper.loss) -> [B]`; the state is donated.
    """

    def gradients(state: TrainState, images, labels, hyper: Hyper):
        def objective(params):
            model = nnx.merge(graph, params, state.batch_stats, copy=True)
            logits = model(images, train=True)
            weights = jnp.where(state.step >= hyper.drw_start, hyper.drw_weights, hyper.class_weights)[labels]
            value = weighted_mean(loss(logits, labels, **hyper.loss), weights)
            return value, (logits, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(objective, has_aux=True)(state.params)

    def step(state: TrainState, rows, data: TrainData, hyper: Hyper, key):
        labels = data.labels[rows]
        images = augment(jax.random.fold_in(key, state.step), data.inputs[data.rows[rows]], hyper.rotation, hyper.flip)
        (value, (logits, batch_stats)), grads = gradients(state, normalise(images), labels, hyper)
        rate = cosine_decay(state.step, peak=hyper.lr, warmup_steps=hyper.warmup_steps, total_steps=hyper.total_steps)
        tx = OPTIMIZERS[optimizer](rate, hyper.momentum, hyper.weight_decay)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        correct = (logits.argmax(axis=1) == labels).sum(dtype=jnp.int32)
        return TrainState(params, batch_stats, opt_state, state.step + 1), Totals(value, correct)

    @partial(jax.jit, donate_argnums=0)
    def run_steps(state: TrainState, count, data: TrainData, hyper: Hyper, key):
        epoch_key, step_key = jax.random.split(key)
        epoch, first = state.step // steps_per_epoch, state.step % steps_per_epoch
        order = epoch_rows(jax.random.fold_in(epoch_key, epoch), data.pool, steps_per_epoch * batch_size)

        def body(i, carry):
            state, totals = carry
            rows = jax.lax.dynamic_slice_in_dim(order, (first + i) * batch_size, batch_size)
            state, new = step(state, rows, data, hyper, step_key)
            return state, jax.tree.map(jnp.add, totals, new)

        zero = Totals(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))
        return jax.lax.fori_loop(0, count, body, (state, zero))

    return run_steps


def make_predict(graph: nnx.GraphDef, batch_size: int) -> Callable:
    """`(params, batch_stats, inputs, rows [n]) -> logits [n, K]` float32 NumPy; the last batch is padded and cut."""

    @jax.jit
    def forward(params, batch_stats, inputs, rows):
        model = nnx.merge(graph, params, batch_stats, copy=True)
        return model(normalise(inputs[rows].astype(jnp.float32)))

    def predict(params, batch_stats, inputs, rows: np.ndarray) -> np.ndarray:
        padded = np.resize(rows, -(-len(rows) // batch_size) * batch_size).reshape(-1, batch_size)
        batches = [forward(params, batch_stats, inputs, batch) for batch in padded]
        return np.concatenate([np.asarray(logits) for logits in batches])[: len(rows)]

    return predict
