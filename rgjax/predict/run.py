"""Finished runs: their networks, read from their workdirs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from rgjax.config import Config, recorded_config
from rgjax.encoders import Encoder, encode_images, encode_tokens
from rgjax.errors import UserError, first_few
from rgjax.losses import loss_of
from rgjax.models.factory import bert_checkpoint, input_kind, make_model, network_inputs
from rgjax.models.tokenizer import FILES, Tokens
from rgjax.regroup import Regrouping
from rgjax.storage import manifest
from rgjax.storage.files import digest
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.program import init_state


class FinishedRun(NamedTuple):
    """The trained network of a run, and what it was trained on.

    Attributes:
        config: the run's settings.
        graph: the network's structure.
        params: its parameters and its batch statistics, on the host.
        regrouping: the label map of the training set.
        indices: the training set [N_train] in the data set.
        class_names: of the C classes.
        data: the data set's fingerprint.
        tokens: the fingerprint of the tokenizer and of the weights before training; "" for images.
    """

    config: Config
    graph: nnx.GraphDef
    params: tuple[Any, Any]
    regrouping: Regrouping
    indices: np.ndarray
    class_names: tuple[str, ...]
    data: str
    tokens: str

    @property
    def kind(self) -> str:
        return input_kind(self.config.model)

    @property
    def fingerprint(self) -> str:
        """Identifies the network and all that it makes of its inputs."""
        weights = map(np.asarray, jax.tree.leaves(self.params))
        return digest("run-v2", self.tokens, self.config.data.max_length, *weights)


def load_run(workdir: Path, *, flag: str, kind: str = "", dtype: str = "") -> FinishedRun:
    """Read the network that a run left in its workdir.

    Args:
        workdir: of a finished run.
        flag: how the user named the workdir; error messages begin with it.
        kind: the inputs that it must read, if given.
        dtype: the precision that it computes in, if given.

    Raises:
        UserError: where the run is not finished, is damaged, or reads other inputs.
    """
    try:
        return _load_run(workdir, kind, dtype)
    except Exception as error:  # whatever is damaged in that run, the way out is the same
        raise UserError(f"{flag}={workdir}: cannot be used: {error}") from error


def _load_run(workdir: Path, kind: str, dtype: str) -> FinishedRun:
    if not (workdir / "result.json").is_file() or not (workdir / "checkpoints").is_dir():
        raise UserError("not a finished run: result.json or checkpoints/ is missing")
    if damages := manifest.damages(workdir):
        raise UserError(f"{first_few(damages)} changed after the run ended; rerun its command to restore them")
    config = recorded_config(json.loads((workdir / "config.json").read_text()))
    config.model.dtype = dtype or config.model.dtype
    with np.load(workdir / "regrouping.npz", allow_pickle=False) as file:
        regrouping = Regrouping(file["pseudo_labels"], file["parent"])
        indices, class_names = file["rows"], tuple(file["class_names"].tolist())
    trained_on = input_kind(config.model)
    if kind and trained_on != kind:
        raise UserError(f"it was trained on {trained_on}, not {kind}")
    head = loss_of(config.loss).head
    model = make_model(config.model, regrouping.num_pseudo_classes, head=head, seed=config.seed)
    graph, state = init_state(model, config.train.optimizer)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, *_ = checkpoints.restore(state)
    checkpoints.close()
    if not int(state.step):
        raise UserError("no checkpoint found")
    tokens = bert_checkpoint(config.model).fingerprint(*FILES) if trained_on == "sentences" else ""
    recorded = json.loads((workdir / "provenance.json").read_text())["fingerprints"]
    if tokens != recorded.get("weights", ""):
        raise UserError(f"the checkpoint {bert_checkpoint(config.model).name} has changed since the run began")
    params = jax.device_get((state.params, state.batch_stats))
    return FinishedRun(config, graph, params, regrouping, indices, class_names, recorded["data"], tokens)


def encoder_of_run(workdir: Path, kind: str) -> Encoder:
    """The penultimate features of the network that an earlier run trained, on data of the same kind."""
    run = load_run(workdir, flag="config.encoder.checkpoint", kind=kind)

    def features(params, batch):
        return nnx.merge(run.graph, *params, copy=True).features(batch)

    def encode(inputs: np.ndarray) -> np.ndarray:
        read = network_inputs(run.config.model, inputs, run.config.data.max_length)
        if isinstance(read, Tokens):
            return encode_tokens(features, run.params, read)
        return encode_images(features, run.params, read)

    return Encoder(run.fingerprint, encode)
