"""Load the trained network of a finished run from its workdir."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from rgjax.config import Config, recorded_config, validate
from rgjax.encoders import Encoder, encode_images, encode_tokens
from rgjax.errors import UserError, first_few, first_line
from rgjax.losses import loss_of
from rgjax.models.factory import bert_checkpoint, input_kind, make_model, network_inputs
from rgjax.models.tokenizer import FILES, Tokens
from rgjax.regroup import Regrouping
from rgjax.storage import manifest
from rgjax.storage.files import digest, read_json_object
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.program import init_state

# What damaged JSON and ZIP files raise. Runs of older versions have no checksums that would reveal the damage first.
_DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


class FinishedRun(NamedTuple):
    """The trained network of a run, and its training set.

    Attributes:
        config: the settings of the run.
        graph: the structure of the network.
        params: its parameters and its batch statistics, on the host.
        regrouping: the pseudo-classes of the training set.
        indices: the training examples [N_train] in the data set.
        class_names: names of the C classes.
        data: fingerprint of the data set.
        tokens: fingerprint of the tokenizer and of the weights before training; "" for images.
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
        """Identifies the network and its preprocessing of inputs."""
        weights = map(np.asarray, jax.tree.leaves(self.params))
        return digest("run-v2", self.tokens, self.config.data.max_length, *weights)


def load_run(workdir: Path, *, flag: str, kind: str = "", dtype: str = "") -> FinishedRun:
    """Read the network that a run left in its workdir.

    Args:
        workdir: the folder of the run.
        flag: the flag or field by which the user named it; error messages begin with it.
        kind: "images" or "sentences", if the network must read these.
        dtype: the precision of its computations; the run's if empty.

    Raises:
        UserError: if the run is not finished, is damaged, or reads other inputs.
    """
    try:
        return _load_run(workdir, kind, dtype)
    except (UserError, OSError) as error:
        raise UserError(f"{flag}={workdir}: cannot be used: {error}") from error


def _load_run(workdir: Path, kind: str, dtype: str) -> FinishedRun:
    if not (workdir / "result.json").is_file() or not (workdir / "checkpoints").is_dir():
        raise UserError("not a finished run: result.json or checkpoints/ is missing")
    if damages := manifest.damages(workdir):
        raise UserError(f"{first_few(damages)} changed after the run ended; rerun its command to restore them")
    try:
        config = recorded_config(read_json_object(workdir / "config.json"))
        validate(config)
        with np.load(workdir / "regrouping.npz", allow_pickle=False) as file:
            regrouping = Regrouping(file["pseudo_labels"], file["parent"])
            indices, class_names = file["rows"], tuple(file["class_names"].tolist())
        recorded = read_json_object(workdir / "provenance.json")["fingerprints"]
        data, weights = recorded["data"], recorded.get("weights", "")
    except _DAMAGE as error:
        raise UserError(f"its files are damaged: {type(error).__name__}: {first_line(error)}") from error
    config.model.dtype = dtype or config.model.dtype
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
    if tokens != weights:
        raise UserError(f"the checkpoint {bert_checkpoint(config.model).name} has changed since the run began")
    params = jax.device_get((state.params, state.batch_stats))
    return FinishedRun(config, graph, params, regrouping, indices, class_names, data, tokens)


def encoder_of_run(workdir: Path, kind: str) -> Encoder:
    """An encoder to the penultimate features of a finished run's network.

    Raises UserError if the network does not read inputs of this kind.
    """
    run = load_run(workdir, flag="config.encoder.checkpoint", kind=kind)

    def features(params, batch):
        return nnx.merge(run.graph, *params, copy=True).features(batch)

    def encode(inputs: np.ndarray) -> np.ndarray:
        read = network_inputs(run.config.model, inputs, run.config.data.max_length)
        if isinstance(read, Tokens):
            return encode_tokens(features, run.params, read)
        return encode_images(features, run.params, read)

    return Encoder(run.fingerprint, encode)
