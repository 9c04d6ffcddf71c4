"""The training program: one call of the device draws rows, augments, differentiates and updates for many steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from rgjax.balance.samplers import epoch_rows
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
    """What training reads, on the device: `inputs` of the whole data set, an array [M, ...] or several of that length,
    the `rows` [N] of it that are trained on, their (pseudo-)labels `labels` [N], and the sampler's `pool` [P] of
    positions in 0..N-1."""

    inputs: Any
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
    augmentation: dict[str, Any]
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


def draw_epoch(key: jax.Array, epoch, pool: jax.Array, steps: int, batch_size: int) -> jax.Array:
    """Positions int32 [steps, batch_size] that the steps of `epoch` are trained on, with `key` the training's."""
    epoch_key, _ = jax.random.split(key)
    return epoch_rows(jax.random.fold_in(epoch_key, epoch), pool, steps * batch_size).reshape(steps, batch_size)


def make_run_steps(
    graph: nnx.GraphDef, loss: Callable, prepare: Callable, *, optimizer: str, batch_size: int, steps_per_epoch: int
) -> jax.stages.Wrapped:
    """The jitted `(state, count, data, hyper, key) -> (state, Totals)` that trains for `count` steps of one epoch.

    All randomness is folded from `key` by epoch and by step, so neither an interruption nor another number
    of steps in a call changes a single bit. The number of steps is traced: any count runs the same program.
    `prepare(inputs, key, **hyper.augmentation)` makes a batch of the data the network's input, and the network is
    called as `(batch, train=True, key=key) -> logits [B, K]`. `loss(logits, labels [B], **hyper.loss) -> [B]`.
    The state is donated.
    """

    def gradients(state: TrainState, batch, labels, hyper: Hyper, key):
        def objective(params):
            model = nnx.merge(graph, params, state.batch_stats, copy=True)
            logits = model(batch, train=True, key=key)
            weights = jnp.where(state.step >= hyper.drw_start, hyper.drw_weights, hyper.class_weights)[labels]
            value = weighted_mean(loss(logits, labels, **hyper.loss), weights)
            return value, (logits, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(objective, has_aux=True)(state.params)

    def step(state: TrainState, rows, data: TrainData, hyper: Hyper, key):
        labels = data.labels[rows]
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = prepare(take(data.inputs, data.rows[rows]), augment_key, **hyper.augmentation)
        (value, (logits, batch_stats)), grads = gradients(state, batch, labels, hyper, dropout_key)
        rate = cosine_decay(state.step, peak=hyper.lr, warmup_steps=hyper.warmup_steps, total_steps=hyper.total_steps)
        tx = OPTIMIZERS[optimizer](rate, hyper.momentum, hyper.weight_decay)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        correct = (logits.argmax(axis=1) == labels).sum(dtype=jnp.int32)
        return TrainState(params, batch_stats, opt_state, state.step + 1), Totals(value, correct)

    @partial(jax.jit, donate_argnums=0)
    def run_steps(state: TrainState, count, data: TrainData, hyper: Hyper, key):
        epoch, first = state.step // steps_per_epoch, state.step % steps_per_epoch
        order = draw_epoch(key, epoch, data.pool, steps_per_epoch, batch_size)
        _, step_key = jax.random.split(key)

        def body(i, carry):
            state, totals = carry
            state, new = step(state, order[first + i], data, hyper, step_key)
            return state, jax.tree.map(jnp.add, totals, new)

        zero = Totals(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))
        return jax.lax.fori_loop(0, count, body, (state, zero))

    return run_steps


def make_predict(graph: nnx.GraphDef, prepare: Callable) -> Callable:
    """`(params, batch_stats, inputs, batches [n, B]) -> logits [n * B, K]` float32 NumPy."""

    @jax.jit
    def forward(params, batch_stats, inputs, rows):
        model = nnx.merge(graph, params, batch_stats, copy=True)
        return model(prepare(take(inputs, rows)))

    def predict(params, batch_stats, inputs, batches: np.ndarray) -> np.ndarray:
        # All batches are under way before the first is waited for.
        return np.concatenate(jax.device_get([forward(params, batch_stats, inputs, rows) for rows in batches]))

    return predict


def take(inputs, rows):
    """The `rows` of an array or of each of several arrays."""
    return jax.tree.map(lambda array: array[rows], inputs)
