"""The compiled program that computes logits."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax.sharding import AXIS, TRIAL
from rgjax.training.layout import TREES, Layout
from rgjax.training.program import TrainState, for_each_trial, take


@lru_cache(maxsize=8)
def make_predict(
    graph: nnx.GraphDef,
    prepare: Callable,
    mesh: Mesh,
    layout: Layout = TREES,
    *,
    by_trial: bool = False,
    in_turn: bool = False,
    compiler_options: tuple[tuple[str, bool], ...] = (),
) -> Callable:
    """`(state, inputs, batches [n, B]) -> logits [T, n * B, K]` of T trials.

    The logits are float32 NumPy, computed in one device call. n is padded to a multiple of 8, so that calls with the
    same B and a similar n share a compiled program.

    Args:
        graph: structure of the network, which is called as `(inputs) -> logits [b, K]`.
        prepare: the network's inputs of b examples, without augmentation.
        mesh: devices by the axes "trial" and "data".
        layout: how the state is stored on the devices.
        by_trial: whether the trials have batches [T, n, B] of their own.
        in_turn: as in StepSpec.
        compiler_options: as in StepSpec.
    """

    forward = _make_forward(graph, prepare, mesh, layout)

    def forward_trials(params, batch_stats, inputs, batches, count):
        def forward_trial(trial):
            params, batch_stats, of_trial = trial
            return forward(params, batch_stats, inputs, batches if of_trial is None else of_trial, count)

        return for_each_trial(forward_trial, (params, batch_stats, batches if by_trial else None), in_turn=in_turn)

    everywhere, each, by_example = PartitionSpec(), PartitionSpec(TRIAL), PartitionSpec(AXIS)
    mapped = jax.jit(
        jax.shard_map(
            forward_trials,
            mesh=mesh,
            in_specs=(each, each, by_example, each if by_trial else everywhere, everywhere),
            out_specs=PartitionSpec(TRIAL, None, AXIS),
            check_vma=False,
        ),
        out_shardings=NamedSharding(mesh, everywhere),
        compiler_options=dict(compiler_options),
    )

    def predict(state: TrainState, inputs: Any, batches: np.ndarray) -> np.ndarray:
        *trials, count, size = batches.shape
        padded = np.zeros((*trials, -(-count // 8) * 8, size), np.int32)
        padded[..., :count, :] = batches
        logits = np.asarray(mapped(state.params, state.batch_stats, inputs, padded, np.int32(count)))
        return logits[:, :count].reshape(len(logits), -1, logits.shape[-1])

    return predict


def _make_forward(graph: nnx.GraphDef, prepare: Callable, mesh: Mesh, layout: Layout) -> Callable:
    """`(params, batch_stats, inputs, batches [n, B], count) -> logits [n, B, K]`."""

    def forward(params, batch_stats, inputs, batches, count):
        model = nnx.merge(graph, *layout.unflatten((params, batch_stats)), copy=True)

        def logits_of(i):
            return model(prepare(take(inputs, batches[i], mesh.shape[AXIS])))

        first = jax.eval_shape(logits_of, jnp.int32(0))
        logits = jnp.zeros((len(batches), *first.shape), first.dtype)
        return jax.lax.fori_loop(0, count, lambda i, logits: logits.at[i].set(logits_of(i)), logits)

    return forward
