"""The training program: many optimizer steps in one device call.

run_steps = jit(shard_map(vmap(fori_loop(train_step))))
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.losses import weighted_mean
from rgjax.sampling.samplers import epoch_rows
from rgjax.sharding import AXIS, TRIAL
from rgjax.training.habits import PLAIN, Habits
from rgjax.training.layout import TREES, Layout
from rgjax.training.optimizer import OPTIMIZERS, cosine_decay

ABSENT = -1e9  # logit of a padding output
BUCKET = 25e6  # bytes of gradients that devices sum at once, as torch's DDP does


@struct.dataclass
class TrainState:
    """Everything that training changes, as one pytree.

    A diverged trial keeps the state before its non-finite `step`, and `alive` is False.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: Any
    alive: Any = np.True_


class TrainData(NamedTuple):
    """The training data on the devices.

    Attributes:
        inputs: inputs of the whole data set, one array [M, ...] or several, sharded over the mesh axis "data".
        indices: index of each training example [N] in `inputs`, replicated like the fields below.
        labels: (pseudo-)label of each training example [N].
        pool: the sampler's pool [P]: positions in 0..N-1, from which each epoch is drawn.
        size: the pool's traced size, if `pool` is cycled as in `task.stacked`.
    """

    inputs: Any
    indices: Any
    labels: Any
    pool: Any
    size: Any = None


class HyperParams(NamedTuple):
    """The numbers that a grid search may vary; traced, so new values do not recompile.

    The first `outputs` of the network's K outputs are the (pseudo-)classes; the others are padding, so that runs with
    different numbers of pseudo-classes share a program. The loss is weighted by `class_weights` [K] before step
    `drw_start`, and by `drw_weights` [K] from then on.
    """

    lr: Any
    momentum: Any
    weight_decay: Any
    warmup_steps: Any
    total_steps: Any
    outputs: Any
    augmentation: dict[str, Any]
    loss: dict[str, Any]
    class_weights: Any
    drw_weights: Any
    drw_start: Any
    head_only_steps: Any = 0  # at the beginning, in which only the head's parameters move


class Batch(NamedTuple):
    """One device's share of a batch: the network's inputs and the labels [b]."""

    inputs: Any
    labels: jax.Array


class StepMetrics(NamedTuple):
    """Loss of the batch, this device's correct predictions, whether all is finite."""

    loss: jax.Array
    correct: jax.Array
    finite: jax.Array


class Totals(NamedTuple):
    """Sums over the finite steps of one device call, and the count of skipped ones.

    `first` is the first skipped step, -1 if there is none, and `first_loss` its loss.
    """

    loss: Any
    correct: Any
    skipped: Any
    first: Any
    first_loss: Any

    @classmethod
    def zero(cls) -> "Totals":
        real, integer = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        return cls(real, integer, integer, ~integer, real)

    def add(self, step: jax.Array, metrics: StepMetrics) -> "Totals":
        loss, correct, finite = metrics
        first = ~finite & (self.first < 0)
        return Totals(
            self.loss + jnp.where(finite, loss, jnp.zeros_like(loss)),
            self.correct + jnp.where(finite, correct, jnp.zeros_like(correct)),
            self.skipped + (~finite).astype(jnp.int32),
            jnp.where(first, step, self.first),
            jnp.where(first, loss, self.first_loss),
        )


@dataclass(frozen=True)
class StepSpec:
    """The static parts of the training program.

    Attributes:
        graph: structure of the network, which is called as `(inputs, train=True, key=key) -> logits [b, K]`.
        loss: `(logits [b, K], labels [b], **hyper.loss) -> losses [b]`.
        prepare: `(inputs, keys [b], **hyper.augmentation)` -> the network's inputs, with one key per example.
        optimizer: its name in OPTIMIZERS.
        batch_size: examples per step, over all devices that share a batch.
        steps_per_epoch: steps between two draws from the pool.
        mesh: devices by the axes "trial" and "data".
        layout: how the state is stored on the devices.
        skip: whether to skip a non-finite step and go on; otherwise the trial diverges.
        habits: what fine-tuning does otherwise.
        by_trial: whether each trial has its own indices, labels and pool [T, ...]; otherwise they share them.
        in_turn: whether a call trains its trials one after the other. On a CPU that is faster for small networks:
            the state of one trial stays in the cache.
        compiler_options: of XLA, as by `compiler.compiler_options`.
    """

    graph: nnx.GraphDef
    loss: Callable
    prepare: Callable
    optimizer: str
    batch_size: int
    steps_per_epoch: int
    mesh: Mesh
    layout: Layout = TREES
    skip: bool = False
    habits: Habits = PLAIN
    by_trial: bool = False
    in_turn: bool = False
    compiler_options: tuple[tuple[str, bool], ...] = ()

    @property
    def shards(self) -> int:
        """Devices that share a batch."""
        return self.mesh.shape[AXIS]

    def all_reduce(self, values: Any) -> Any:
        # On a single device, XLA would still copy the values.
        return jax.lax.psum(values, AXIS) if self.shards > 1 else values


def init_state(model: nnx.Module, optimizer: str) -> tuple[nnx.GraphDef, TrainState]:
    """The network's structure, and its state before the first step."""
    graph, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, TrainState(params, batch_stats, _init_moments(optimizer)(params), jnp.zeros((), jnp.int32))


@cache
def _init_moments(optimizer: str) -> Callable:
    return jax.jit(OPTIMIZERS[optimizer](0.0, 0.0, 0.0).init)


def train_step(
    spec: StepSpec, state: TrainState, batch: Batch, hyper: HyperParams, key: jax.Array
) -> tuple[TrainState, StepMetrics]:
    """One optimizer step; there is no update if its loss or gradient is not finite.

    The devices that share a batch call it together, each with its own examples, and sum their gradients.

    Args:
        spec: the static parts of the program.
        state: the state before the step, stored in `spec.layout`.
        batch: this device's share of the batch.
        hyper: the traced hyper-parameters.
        key: the key for dropout.
    """

    def objective(params):
        model = nnx.merge(spec.graph, params, spec.layout.unflatten(state.batch_stats), copy=True)
        logits = model(batch.inputs, train=True, key=key)
        is_class = jnp.arange(logits.shape[1], dtype=jnp.int32) < hyper.outputs
        logits = jnp.where(is_class[None], logits, ABSENT)
        class_weights = jnp.where(state.step >= hyper.drw_start, hyper.drw_weights, hyper.class_weights)
        losses = spec.loss(logits, batch.labels, **hyper.loss)
        loss = weighted_mean(losses, class_weights[batch.labels], axis=AXIS if spec.shards > 1 else None)
        return loss, (logits, spec.layout.flatten(nnx.state(model, nnx.BatchStat)))

    params = spec.layout.unflatten(state.params)
    (loss, (logits, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    # Devices sum one bucket while the backward pass computes the next.
    buckets, loss = spec.all_reduce((spec.layout.buckets(grads, BUCKET if spec.shards > 1 else math.inf), loss))
    grads = spec.layout.join(buckets)
    finite = is_finite((loss, grads)) & state.alive

    def update():
        lr = cosine_decay(state.step, peak=hyper.lr, warmup_steps=hyper.warmup_steps, total_steps=hyper.total_steps)
        habits = spec.habits.stored(spec.layout, params).at(state.step < hyper.head_only_steps)
        tx = OPTIMIZERS[spec.optimizer](lr, hyper.momentum, hyper.weight_decay, habits.decays)
        updates, opt_state = tx.update(habits.clip(grads), state.opt_state, state.params)
        new_params = jax.tree.map(jnp.add, state.params, habits.scale(updates))
        return TrainState(new_params, batch_stats, opt_state, state.step + 1, state.alive)

    def keep():
        if spec.skip:
            return replace(state, step=state.step + 1)
        return replace(state, alive=jnp.zeros_like(state.alive))

    correct = (logits.argmax(axis=1) == batch.labels).sum(dtype=jnp.int32)
    return spec.layout.select(finite, update, keep), StepMetrics(loss, correct, finite)


def is_finite(tree: Any) -> jax.Array:
    """Whether all arrays are finite, in one pass over memory.

    A sum with an infinity or NaN is never finite.
    """
    return jnp.isfinite(jnp.stack([leaf.sum() for leaf in jax.tree.leaves(tree)]).sum())


def draw_epoch(key: jax.Array, epoch, pool: jax.Array, steps: int, batch_size: int, size=None) -> jax.Array:
    """Draw an epoch: positions int32 [steps, batch_size] among the training examples.

    Args:
        key: the trial's key.
        epoch: the number of the epoch, from 0.
        pool: the sampler's pool [P].
        steps: steps per epoch.
        batch_size: examples per step.
        size: as in TrainData.
    """
    epoch_key, _ = jax.random.split(key)
    rows = epoch_rows(jax.random.fold_in(epoch_key, epoch), pool, steps * batch_size, size)
    return rows.reshape(steps, batch_size)


def load_batch(
    spec: StepSpec, data: TrainData, positions: jax.Array, hyper: HyperParams, key: jax.Array
) -> tuple[Batch, jax.Array]:
    """This device's share of a batch, and its key for dropout.

    Args:
        spec: the static parts of the program.
        data: the training data.
        positions: positions of the whole batch [B] among the training examples.
        hyper: gives the strengths of the augmentation.
        key: the step's key.
    """
    device, size = jax.lax.axis_index(AXIS), spec.batch_size // spec.shards
    slots = device * size + jnp.arange(size, dtype=jnp.int32)
    augment_key, dropout_key = jax.random.split(key)
    keys = jax.vmap(partial(jax.random.fold_in, augment_key))(slots)
    inputs = spec.prepare(take(data.inputs, data.indices[positions], spec.shards), keys, **hyper.augmentation)
    return Batch(inputs, data.labels[positions[slots]]), jax.random.fold_in(dropout_key, device)


def train_steps(
    spec: StepSpec, state: TrainState, count: jax.Array, data: TrainData, hyper: HyperParams, key: jax.Array
) -> tuple[TrainState, Totals]:
    """Train one trial for `count` steps of one epoch.

    All random keys are derived from `key` by epoch, step and example. The results therefore have the same bits with
    any number of steps per call and after any interruption.
    """
    epoch, first = state.step // spec.steps_per_epoch, state.step % spec.steps_per_epoch
    order = draw_epoch(key, epoch, data.pool, spec.steps_per_epoch, spec.batch_size, data.size)
    _, key = jax.random.split(key)

    def body(i, carry):
        state, totals = carry
        step_key = jax.random.fold_in(key, state.step)
        batch, dropout_key = load_batch(spec, data, order[first + i], hyper, step_key)
        next_state, metrics = train_step(spec, state, batch, hyper, dropout_key)
        return next_state, totals.add(state.step, metrics)

    state, totals = jax.lax.fori_loop(0, count, body, (state, Totals.zero()))
    return state, totals._replace(correct=spec.all_reduce(totals.correct))


def for_each_trial(function: Callable, arguments: Any, *, in_turn: bool = False) -> Any:
    """Map `function` over the first axis of `arguments`, arrays [T, ...].

    For a single trial `function` is called directly, because the program without vmap is simpler.
    """
    if len(jax.tree.leaves(arguments)[0]) > 1:
        return jax.lax.map(function, arguments) if in_turn else jax.vmap(function)(arguments)
    return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], arguments)))


def make_run_steps(spec: StepSpec) -> jax.stages.Wrapped:
    """The jitted `(state, count, data, hyper, key) -> (state, Totals)`.

    It trains for `count` steps of one epoch.

    Several trials train as one program: all arrays of `state`, `hyper`, `key` and the Totals are [T, ...], all trials
    are at the same step, and they share `data`, or of it the inputs alone (`spec.by_trial`). The number of steps is
    traced: any count runs the same program. The state is stored in `spec.layout` and is donated.

    Trials are spread over the mesh axis "trial" and do not communicate. Along "data", each device trains on its part of
    every batch, and gradients are summed. Results with different numbers of devices therefore differ only by rounding
    and by dropout, which each device draws with its own key.
    """

    def train_trials(state, count, data, hyper, key):
        def train_trial(trial):
            state, examples, hyper, key = trial
            of_trial = data if examples is None else TrainData(data.inputs, *examples)
            return train_steps(spec, state, count, of_trial, hyper, key)

        examples = data[1:] if spec.by_trial else None
        return for_each_trial(train_trial, (state, examples, hyper, key), in_turn=spec.in_turn)

    everywhere, by_trial = PartitionSpec(), PartitionSpec(TRIAL)
    examples = by_trial if spec.by_trial else everywhere
    data = TrainData(PartitionSpec(AXIS), examples, examples, examples, examples)
    mapped = jax.shard_map(
        train_trials,
        mesh=spec.mesh,
        in_specs=(by_trial, everywhere, data, by_trial, by_trial),
        out_specs=by_trial,
        check_vma=False,  # the checker cannot infer that summed gradients keep the parameters equal on all devices
    )
    # Every process reads the totals of all trials.
    shardings = NamedSharding(spec.mesh, by_trial), NamedSharding(spec.mesh, everywhere)
    options = dict(spec.compiler_options)
    return jax.jit(mapped, donate_argnums=0, out_shardings=shardings, compiler_options=options)


run_steps_of_heads = lru_cache(maxsize=8)(make_run_steps)  # a sweep's jobs have equal specs, which are compiled once


def take(inputs: Any, indices: jax.Array, shards: int) -> Any:
    """A device's share of the examples `indices` [B] of arrays sharded over devices.

    Each device looks up the whole batch in its shard, and the results are summed. This communicates little compared
    with the gradients.
    """
    if shards == 1:
        return jax.tree.map(lambda array: array[indices], inputs)

    def share(shard):
        local = indices - jax.lax.axis_index(AXIS) * len(shard)
        examples = shard.at[local].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return jax.lax.psum_scatter(examples, AXIS, tiled=True)

    return jax.tree.map(share, inputs)
