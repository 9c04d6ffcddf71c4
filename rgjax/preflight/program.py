"""The training program of a config, lowered from shapes without any data."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from rgjax.config import FROZEN, Config
from rgjax.data import Dataset, load_data
from rgjax.data.lengths import estimated_tokens, text_length
from rgjax.data.phrasebank import TOKEN_QUANTILES
from rgjax.errors import UserError
from rgjax.losses import loss_of
from rgjax.models.bert import bert_config
from rgjax.models.factory import (
    checkpoint_settings,
    make_model,
    model_checkpoint,
    on_platform,
    reads_text,
    starts_from_checkpoint,
)
from rgjax.models.pretrained import BlankCheckpoint, Checkpoint, ShapedCheckpoint
from rgjax.models.tokenizer import Tokens
from rgjax.regroup import regroup
from rgjax.sampling import Synthetic
from rgjax.sampling.smote import missing
from rgjax.sharding import make_mesh, replicated, sharded_spec, trial_sharded
from rgjax.training.feed import steps_per_chunk, streams
from rgjax.training.inputs import resolve_images
from rgjax.training.program import TrainData, init_state, make_run_steps
from rgjax.training.setup import (
    host_data,
    make_augmentation,
    make_hyper,
    make_schedule,
    require_trainable,
    training_program,
)
from rgjax.training.task import Task, how_to_regroup, make_task, stacked

_log = logging.getLogger(__name__)


def spec_task(config: Config) -> Task:
    """A run's task by its sizes: the data set's spec and random clusters.

    The clustering is assumed to yield as many pseudo-classes as asked for; a grouped split of the real data differs
    by an example or two per class.
    """
    if config.model.name in FROZEN:
        raise UserError(
            f"config.model.name={config.model.name}: a head on features trains in minutes on any machine and "
            "needs no estimate; give another network, such as --config.model.name=resnet34"
        )
    config, preprocessing = resolve_images(config, {})
    dataset = load_data(config.data, spec=True)
    require_trainable(config, dataset)
    labels, how, features = dataset.labels[dataset.train], how_to_regroup(config, dataset), None
    if how["clustering"] == "given":  # what has no subclass is clustered by something
        features, how["n_init"] = np.random.default_rng(0).normal(size=(len(labels), 2)), 1
    elif how["clustering"] != "none":
        how["clustering"] = "random"
    clusters = regroup(features, labels, len(dataset.class_names), **how)
    inputs, synthetic = blank_inputs(config, dataset), None
    if config.sampler == "deepsmote":
        added, none = missing(clusters.pseudo_labels), np.empty(0, np.int32)
        images = np.broadcast_to(dataset.inputs[0], (len(added), *dataset.inputs.shape[1:]))
        synthetic = Synthetic(images, added, none, none)
        inputs = np.broadcast_to(dataset.inputs[0], (len(dataset.inputs) + len(added), *dataset.inputs.shape[1:]))
    task = make_task(config, dataset, inputs, clusters, synthetic=synthetic)
    return replace(task, preprocessing=preprocessing)


def blank_inputs(config: Config, dataset: Dataset) -> np.ndarray | Tokens:
    """Inputs as the network reads them, without content.

    The lengths of custom texts are estimated from their words; other sentences have those of Financial PhraseBank.
    """
    if not reads_text(config.model, dataset.inputs):
        return dataset.inputs
    count = len(dataset.inputs)
    lengths = estimated_tokens(dataset.inputs)
    if config.data.name == "phrasebank":
        lengths = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(TOKEN_QUANTILES)), TOKEN_QUANTILES)
        lengths = np.random.default_rng(0).permutation(lengths.astype(np.int32))
    limit = checkpoint_settings(config.model, blank_checkpoint(config))["max_position_embeddings"]
    lengths = np.minimum(lengths, text_length(config.data.max_length, lengths[dataset.train], limit))
    return Tokens(np.broadcast_to(np.int32(0), (count, lengths.max())), lengths)


def lowered_program(
    config: Config, task: Task, devices: Sequence[Any], platform: str, memory: int
) -> tuple[jax.stages.Traced, jax.stages.Lowered]:
    """Trace and lower the program that `trainer.train` compiles for the config.

    Args:
        config: of the run, or of a population of runs.
        task: as of `spec_task`.
        devices: that it is lowered for.
        platform: of the devices.
        memory: bytes of each device.
    """
    trials = config.population
    mesh = make_mesh(devices, trials=trials, batch_size=config.train.batch_size)

    def initial_state():
        model = make_model(
            on_platform(config.model, platform),
            task.regrouping.num_pseudo_classes,
            head=loss_of(config.loss).head,
            seed=config.seed,
            checkpoint=blank_checkpoint(config) if starts_from_checkpoint(config.model) else None,
            image_size=task.image_size,
        )
        return init_state(model, config.train.optimizer)

    graph, state = jax.eval_shape(initial_state)
    keys = [jax.random.key(config.seed + i) for i in range(trials)]
    spec = training_program(config, task, graph, state, keys=keys, mesh=mesh, platform=platform)
    schedule, host = make_schedule(config, task.examples_per_epoch(config)), host_data(task.inputs)
    count = len(host)
    if streams(config.data.placement, host, spec.shards, memory):
        steps = steps_per_chunk(host, schedule, trials=trials, devices=spec.shards)
        count = trials * schedule.batch_size * steps

    def shared(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), tree)

    def stacked_shapes(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=trial_sharded(mesh)), tree)

    def per_trial(tree):
        sharding = trial_sharded(mesh)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((trials, *x.shape), x.dtype, sharding=sharding), tree)

    if spec.by_trial:
        examples = stacked_shapes(stacked([task] * trials, schedule.examples_per_epoch))
    else:
        examples = shared(task.examples)
    data = TrainData(sharded_spec(host.spec(count), mesh), *examples)
    [augmentation] = make_augmentation([config], task)
    hyper = make_hyper(config, schedule, task.class_stats(config.loss), augmentation)
    state, hyper, key = per_trial((jax.eval_shape(spec.layout.flatten, state), hyper, keys[0]))
    traced = make_run_steps(spec).trace(state, shared(np.int32(1)), data, hyper, key)
    return traced, traced.lower()


def blank_checkpoint(config: Config) -> Checkpoint:
    """The config's checkpoint by its config.json, without weights.

    With model.name=bert, it has the shape of bert-base if that file is unavailable.
    """
    if config.model.name == "pretrained":
        checkpoint = model_checkpoint(config.model)
        if checkpoint.is_local:
            return ShapedCheckpoint(checkpoint.name, checkpoint.shapes(), ways_out="")
        return BlankCheckpoint(checkpoint.name, ways_out="")
    try:
        values = model_checkpoint(config.model).json("config.json")
    except UserError:
        _log.info("config.model.checkpoint: unavailable; assuming the shape of bert-base")
        values = {"model_type": "bert"}
    return AssumedCheckpoint(values)


class AssumedCheckpoint(BlankCheckpoint):
    """A checkpoint known by its config.json alone."""

    def __init__(self, values: dict[str, Any]):
        super().__init__("blank", ways_out="")
        self._values = values
        bert_config(self)

    def json(self, name: str) -> dict[str, Any]:
        return self._values
