"""The training program: one call of the device draws rows, augments, differentiates and updates for many steps."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.losses import weighted_mean
from rgjax.sampling.samplers import epoch_rows
from rgjax.sharding import AXIS, TRIAL
from rgjax.training.optimizer import OPTIMIZERS, cosine_decay

ABSENT = -1e9  # logit of an output that stands for no class


@struct.dataclass
class TrainState:
    """All that changes in training, as one pytree: parameters, batch statistics, optimizer state, step count.

    A trial that is lost stands still, just before the `step` s that it was lost at, which is ~s from then on.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: jax.Array


class TrainData(NamedTuple):
    """What training reads, on the devices: `inputs` of the whole data set, an array [M, ...] or several of that length,
    in equal parts along the mesh axis "data"; and, on every device, the `rows` [N] of it that are trained on, their
    (pseudo-)labels `labels` [N], and the sampler's `pool` [P] of positions in 0..N-1."""

    inputs: Any
    rows: Any
    labels: Any
    pool: Any


class HyperParams(NamedTuple):
    """Every number that a grid search may vary; traced, so that no value of it causes a compilation.

    Of the network's K outputs the first `outputs` stand for (pseudo-)classes; the rest is padding, so that runs with
    different numbers of groups share a program. `class_weights` [K] weigh the loss until the step `drw_start`,
    `drw_weights` [K] from then on.
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


class Totals(NamedTuple):
    """Of the steps of one call: sums over those that were taken; how many were `left_out`, as the loss or the gradient
    was not finite or the trial was lost; and the first of those, -1 where there is none, with its loss."""

    loss: Any
    correct: Any
    left_out: Any
    first: Any
    first_loss: Any


def no_steps() -> Totals:
    """The Totals of no steps."""
    none, zero = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return Totals(none, zero, zero, ~zero, none)


def with_step(totals: Totals, step: jax.Array, loss: jax.Array, correct: jax.Array, taken: jax.Array) -> Totals:
    """The Totals with one more step, which was `taken` or left out."""
    first = ~taken & (totals.first < 0)
    return Totals(
        totals.loss + jnp.where(taken, loss, jnp.zeros_like(loss)),
        totals.correct + jnp.where(taken, correct, jnp.zeros_like(correct)),
        totals.left_out + (~taken).astype(jnp.int32),
        jnp.where(first, step, totals.first),
        jnp.where(first, loss, totals.first_loss),
    )


def init_state(model: nnx.Module, optimizer: str) -> tuple[nnx.GraphDef, TrainState]:
    """The network's structure, and its state before the first step."""
    graph, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, TrainState(params, batch_stats, _first_moments(optimizer)(params), jnp.zeros((), jnp.int32))


@cache
def _first_moments(optimizer: str) -> Callable:
    return jax.jit(OPTIMIZERS[optimizer](0.0, 0.0, 0.0).init)


def for_each_trial(function: Callable, own):
    """`function` of each trial's part of `own`, arrays [T, ...], as arrays [T, ...]: vmapped, or as it stands for
    one trial, whose program is to be the plain one."""
    if len(jax.tree.leaves(own)[0]) > 1:
        return jax.vmap(function)(own)
    return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], own)))


class Layout(NamedTuple):
    """How parameters, and all that is kept for each of them, lie on the device in training: two maps of a TrainState,
    or of a part of it, from trees of arrays to what is stored and back; and `either(taken, update, keep)`, the result
    of one of two functions."""

    store: Callable[[Any], Any]
    as_tree: Callable[[Any], Any]
    either: Callable[[jax.Array, Callable, Callable], Any]


TREES = Layout(lambda tree: tree, lambda tree: tree, jax.lax.cond)  # a selection would copy the moments at every step


def layout_for(platform: str, params) -> Layout:
    """One vector on GPUs, where an update of a hundred arrays is a hundred small kernels; trees elsewhere."""
    return one_vector(params) if platform in ("gpu", "cuda") else TREES


def one_vector(params) -> Layout:
    """All of `params` as one vector, and so its gradients and its moments."""
    leaves, structure = jax.tree.flatten(params)
    shapes = [leaf.shape for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves]).tolist()

    def is_params(tree):
        return jax.tree.structure(tree) == structure

    def joined(tree):
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]) if is_params(tree) else tree

    def parted(stored):
        if stored.shape != (ends[-1],):
            return stored
        slices = zip([0, *ends], ends, shapes, strict=False)
        return jax.tree.unflatten(structure, [stored[start:end].reshape(shape) for start, end, shape in slices])

    return Layout(
        jax.jit(lambda tree: jax.tree.map(joined, tree, is_leaf=is_params)),
        jax.jit(lambda tree: jax.tree.map(parted, tree)),
        # A GPU would wait for the host to branch.
        lambda taken, update, keep: jax.tree.map(partial(jnp.where, taken), update(), keep()),
    )


def draw_epoch(key: jax.Array, epoch, pool: jax.Array, steps: int, batch_size: int) -> jax.Array:
    """Positions int32 [steps, batch_size] that the steps of `epoch` are trained on, with `key` the training's."""
    epoch_key, _ = jax.random.split(key)
    return epoch_rows(jax.random.fold_in(epoch_key, epoch), pool, steps * batch_size).reshape(steps, batch_size)


def is_finite(tree) -> jax.Array:
    """Whether the sum of all arrays is finite: neither infinities nor NaN survive it, and it is read at the speed of
    memory."""
    return jnp.isfinite(jnp.stack([leaf.sum() for leaf in jax.tree.leaves(tree)]).sum())


def make_run_steps(
    graph: nnx.GraphDef,
    loss: Callable,
    prepare: Callable,
    *,
    optimizer: str,
    batch_size: int,
    steps_per_epoch: int,
    mesh: Mesh,
    layout: Layout = TREES,
    skip: bool = False,
) -> jax.stages.Wrapped:
    """The jitted `(state, count, data, hyper, key) -> (state, Totals)` that trains for `count` steps of one epoch.

    Several trials train as one program: all arrays of `state`, `hyper`, `key` and the Totals are [T, ...], and all
    trials stand at the same step. `data` is theirs in common.

    All randomness is folded from `key` by epoch, by step and by row, so neither an interruption nor another number
    of steps in a call changes a single bit. The number of steps is traced: any count runs the same program.
    `prepare(inputs, keys [b], **hyper.augmentation)` makes the network's input of b rows, with a key for each, and
    the network is called as `(batch, train=True, key=key) -> logits [b, K]`. `loss(logits, labels [b], **hyper.loss)
    -> [b]`. The state is donated.

    Trials are spread over the axis "trial" of `mesh` and exchange nothing. Along "data"
    each device trains on its part of every batch, and they sum their gradients: results differ between device counts
    by rounding alone, but for dropout, which each draws for itself. The state comes and goes in the `layout`.

    A step whose loss or gradient is not finite changes nothing. With `skip` the next one is taken; else the trial is
    lost and keeps the state before that step.
    """
    shards = mesh.shape[AXIS]
    local_size = batch_size // shards

    def gradients(params, batch_stats, step, batch, labels, hyper: HyperParams, key):
        def objective(params):
            model = nnx.merge(graph, params, batch_stats, copy=True)
            logits = model(batch, train=True, key=key)
            logits = jnp.where(jnp.arange(logits.shape[1], dtype=jnp.int32)[None] < hyper.outputs, logits, ABSENT)
            weights = jnp.where(step >= hyper.drw_start, hyper.drw_weights, hyper.class_weights)[labels]
            value = weighted_mean(loss(logits, labels, **hyper.loss), weights, axis=AXIS)
            return value, (logits, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(objective, has_aux=True)(params)

    def over_shards(values):
        return jax.lax.psum(values, AXIS) if shards > 1 else values  # XLA copies even what only one device reduces

    def train(state: TrainState, count, data: TrainData, hyper: HyperParams, key):
        epoch, first = state.step // steps_per_epoch, state.step % steps_per_epoch
        order = draw_epoch(key, epoch, data.pool, steps_per_epoch, batch_size)
        _, key = jax.random.split(key)
        device = jax.lax.axis_index(AXIS)
        places = device * local_size + jnp.arange(local_size, dtype=jnp.int32)

        def step(i, carry):
            state, totals = carry
            rows = order[first + i]
            labels = data.labels[rows[places]]
            augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
            keys = jax.vmap(partial(jax.random.fold_in, augment_key))(places)
            batch = prepare(take(data.inputs, data.rows[rows], shards), keys, **hyper.augmentation)
            (value, (logits, batch_stats)), grads = gradients(
                layout.as_tree(state.params),
                state.batch_stats,
                state.step,
                batch,
                labels,
                hyper,
                jax.random.fold_in(dropout_key, device),
            )
            grads, value = over_shards((layout.store(grads), value))
            taken = is_finite((value, grads)) & (state.step >= 0)  # negative where the trial is lost

            def update():
                rate = cosine_decay(
                    state.step, peak=hyper.lr, warmup_steps=hyper.warmup_steps, total_steps=hyper.total_steps
                )
                tx = OPTIMIZERS[optimizer](rate, hyper.momentum, hyper.weight_decay)
                updates, opt_state = tx.update(grads, state.opt_state, state.params)
                params = jax.tree.map(jnp.add, state.params, updates)
                return TrainState(params, batch_stats, opt_state, state.step + 1)

            def keep():
                return state.replace(step=state.step + 1 if skip else jnp.minimum(state.step, ~state.step))

            correct = (logits.argmax(axis=1) == labels).sum(dtype=jnp.int32)
            totals = with_step(totals, state.step, value, correct, taken)
            return layout.either(taken, update, keep), totals

        state, totals = jax.lax.fori_loop(0, count, step, (state, no_steps()))
        return state, totals._replace(correct=over_shards(totals.correct))

    def train_trials(state, count, data, hyper, key):
        return for_each_trial(lambda own: train(own[0], count, data, *own[1:]), (state, hyper, key))

    everywhere, by_trial = PartitionSpec(), PartitionSpec(TRIAL)
    data = TrainData(PartitionSpec(AXIS), everywhere, everywhere, everywhere)
    spread = jax.shard_map(
        train_trials,
        mesh=mesh,
        in_specs=(by_trial, everywhere, data, by_trial, by_trial),
        out_specs=by_trial,
        check_vma=False,  # the checker does not know that summed gradients make equal parameters
    )
    # Every process reads the totals of all trials.
    shardings = NamedSharding(mesh, by_trial), NamedSharding(mesh, everywhere)
    return jax.jit(spread, donate_argnums=0, out_shardings=shardings)


def make_predict(graph: nnx.GraphDef, prepare: Callable, mesh: Mesh, layout: Layout = TREES) -> Callable:
    """`(state, inputs, batches [n, B]) -> logits [T, n * B, K]` float32 NumPy of T trials, in one call of the device.

    Calls with up to the same n, rounded up to a multiple of 8, and the same B run the same program.
    """

    def forward(params, batch_stats, inputs, batches, count):
        model = nnx.merge(graph, layout.as_tree(params), batch_stats, copy=True)

        def logits(i):
            return model(prepare(take(inputs, batches[i], mesh.shape[AXIS])))

        first = jax.eval_shape(logits, jnp.int32(0))
        found = jnp.zeros((len(batches), *first.shape), first.dtype)
        return jax.lax.fori_loop(0, count, lambda i, found: found.at[i].set(logits(i)), found)

    def forward_trials(params, batch_stats, *shared):
        return for_each_trial(lambda own: forward(*own, *shared), (params, batch_stats))

    everywhere, by_trial, by_row = PartitionSpec(), PartitionSpec(TRIAL), PartitionSpec(AXIS)
    spread = jax.jit(
        jax.shard_map(
            forward_trials,
            mesh=mesh,
            in_specs=(by_trial, by_trial, by_row, everywhere, everywhere),
            out_specs=PartitionSpec(TRIAL, None, AXIS),
            check_vma=False,
        ),
        out_shardings=NamedSharding(mesh, everywhere),
    )

    def predict(state: TrainState, inputs, batches: np.ndarray) -> np.ndarray:
        count = len(batches)
        padded = np.zeros((-(-count // 8) * 8, batches.shape[1]), np.int32)
        padded[:count] = batches
        logits = np.asarray(spread(state.params, state.batch_stats, inputs, padded, np.int32(count)))
        return logits[:, :count].reshape(len(logits), -1, logits.shape[-1])

    return predict


def take(inputs, rows: jax.Array, shards: int):
    """A device's share of the `rows` [B] of one or several arrays, each of whose rows lies on one of `shards` devices.

    Every device looks all of them up among its own, and they sum what they find: a batch is small beside the gradients.
    """
    if shards == 1:
        return jax.tree.map(lambda array: array[rows], inputs)

    def share(part):
        at = rows - jax.lax.axis_index(AXIS) * len(part)
        found = part.at[at].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return jax.lax.psum_scatter(found, AXIS, tiled=True)

    return jax.tree.map(share, inputs)
