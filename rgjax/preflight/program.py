"""The training program of a config, made from shapes alone: for hardware, data and weights that are not at hand."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rgjax.config import Config
from rgjax.data import Dataset, load_data
from rgjax.data.augment import in_lanes, to_lanes
from rgjax.data.phrasebank import TOKEN_QUANTILES
from rgjax.errors import UserError
from rgjax.losses import ClassStats, class_stats, loss_of
from rgjax.models.factory import bert_checkpoint, make_model, packing, reads_text
from rgjax.models.pretrained import Checkpoint, Tensors, Weights
from rgjax.models.tokenizer import Tokens
from rgjax.models.transformer import bert_config
from rgjax.regroup import Regrouping, regroup
from rgjax.sampling.deepsmote import missing
from rgjax.sampling.samplers import SAMPLERS
from rgjax.sharding import AXIS, make_mesh, replicated, sharded_spec, trial_sharded
from rgjax.training.feed import HostData, steps_per_window, streams
from rgjax.training.loop import TrainSchedule, largest_batch
from rgjax.training.program import TrainData, init_state, layout_for, make_run_steps
from rgjax.training.setup import make_hyper, make_schedule, require_trainable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outline:
    """What a config says of a run before any data is read: the sizes that give the program's shapes."""

    dataset: Dataset
    inputs: np.ndarray  # with what is synthetic behind, as in a Task
    rows: np.ndarray
    labels: np.ndarray
    regrouping: Regrouping
    pool: np.ndarray
    plan: TrainSchedule
    stats: ClassStats


def outline_of(config: Config) -> Outline:
    """The run's sizes. The clustering is taken to give as many groups as it is asked for; a grouped split of the
    real data differs by a row or two a class."""
    dataset = load_data(config.data, spec=True)
    require_trainable(config, dataset)
    labels, names = dataset.labels[dataset.train], dataset.class_names
    by_sampler = config.sampler == "rusc"
    grouping = regroup(
        None,
        labels,
        len(names),
        rule=config.regroup.rule,
        threshold=config.regroup.threshold,
        clustering="random" if by_sampler or config.regroup.clustering != "none" else "none",
        seed=config.regroup.seed,
    )
    trained_on = Regrouping.identity(labels, len(names)) if by_sampler else grouping
    inputs, rows, labels = dataset.inputs, dataset.train, trained_on.pseudo_labels
    if config.sampler == "deepsmote":
        added = missing(labels)
        labels = np.concatenate([labels, added])
        rows = np.concatenate([rows, len(inputs) + np.arange(len(added), dtype=rows.dtype)])
        inputs = np.broadcast_to(inputs[0], (len(inputs) + len(added), *inputs.shape[1:]))
    pool = SAMPLERS[config.sampler](trained_on.parent[labels], grouping.pseudo_labels, config.data.seed)
    plan = make_schedule(config, len(pool) if config.train.epoch_size == "sampler" else len(dataset.train))
    return Outline(dataset, inputs, rows, labels, trained_on, pool, plan, class_stats(config.loss, trained_on))


def lowered_program(
    config: Config, outline: Outline, devices: Sequence[Any], platform: str, memory: int
) -> tuple[jax.stages.Traced, jax.stages.Lowered]:
    """The program that `trainer.train` compiles for the config, traced, and lowered for the `devices`
    of `platform`, with `memory` bytes each, by shapes alone. All that knows the program's arguments is in here."""
    trials = config.population
    mesh = make_mesh(devices, trials=trials, batch_size=config.train.batch_size)
    graphs = []

    def first_state():
        blank = blank_checkpoint(config) if config.model.name == "bert" else None
        classes = outline.regrouping.num_pseudo_classes
        model = make_model(
            config.model,
            classes,
            head=loss_of(config.loss).head,
            seed=config.seed,
            platform=platform,
            checkpoint=blank,
        )
        graph, state = init_state(model, config.train.optimizer)
        graphs.append(graph)
        return state

    def shared(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), tree)

    def of_each_trial(tree):
        sharding = trial_sharded(mesh)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((trials, *x.shape), x.dtype, sharding=sharding), tree)

    state = jax.eval_shape(first_state)
    layout = layout_for(platform, state.params)
    state = jax.eval_shape(layout.store, state)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shards, plan = mesh.shape[AXIS], outline.plan
    host, prepare = inputs_of(config, outline, shards)
    count = len(outline.inputs)
    if streams(config.data.placement, host, shards, memory):
        count = trials * plan.batch_size * steps_per_window(host, plan, trials=trials, devices=shards)
    run_steps = make_run_steps(
        graphs[0],
        loss_of(config.loss).function,
        prepare,
        optimizer=config.train.optimizer,
        batch_size=plan.batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        mesh=mesh,
        layout=layout,
    )
    rows = shared((outline.rows, outline.labels, outline.pool))
    data = TrainData(sharded_spec(host.outline(count), mesh), *rows)
    state, hyper, key = of_each_trial((state, make_hyper(config, plan, outline.stats), key))
    traced = run_steps.trace(state, shared(np.int32(1)), data, hyper, key)
    return traced, traced.lower()


def inputs_of(config: Config, outline: Outline, devices: int) -> tuple[HostData, Callable]:
    """The data set as the network's program reads it, empty, and the preparation of its batches."""
    inputs, plan = outline.inputs, outline.plan
    if not reads_text(config.model, inputs):
        return HostData(inputs, to_lanes), in_lanes(inputs[:1])[1]
    lengths = np.interp(np.linspace(0, 1, len(inputs)), np.linspace(0, 1, len(TOKEN_QUANTILES)), TOKEN_QUANTILES)
    lengths = np.random.default_rng(0).permutation(np.minimum(lengths.astype(np.int32), config.data.max_length))
    tokens = Tokens(np.broadcast_to(np.int32(0), (len(inputs), lengths.max())), lengths)
    key = jax.random.key(config.seed)
    budget = largest_batch(lengths[outline.rows], outline.pool, key, plan, devices=devices)
    return HostData(tokens), packing(budget)


def blank_checkpoint(config: Config) -> Checkpoint:
    """The config's BERT checkpoint by its config.json alone; bert-base's shape where that is out of reach."""
    try:
        values = bert_checkpoint(config.model).json("config.json")
    except UserError:
        _log.info("the BERT checkpoint is out of reach: the shape of bert-base is taken")
        values = {"model_type": "bert"}
    return BlankCheckpoint(values)


class BlankCheckpoint(Checkpoint):
    """A checkpoint with the `values` of a config.json, every tensor that it may have, and zeros in them."""

    def __init__(self, values: dict[str, Any]):
        super().__init__("blank", ways_out="")
        self._values = values
        bert_config(self)

    def json(self, name: str) -> dict[str, Any]:
        return self._values

    def tensors(self) -> Tensors:
        return BlankTensors(Weights({}, Path(self.name)))


class BlankTensors(Tensors):
    def layers(self, name: str, count: int) -> "Tensors":
        return replace(self, prefixes=[str(i) for i in range(count)], stacked=True)

    def has(self, name: str) -> bool:
        return True

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.float32(0), (len(self.prefixes), *shape) if self.stacked else shape)
