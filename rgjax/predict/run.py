"""Load the trained network of a finished run from its workdir."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.config import FROZEN, TEXT_DATA, Config, recorded_config, validate
from rgjax.encoders import GIVEN, Encoder, encode_images, encode_tokens, make_encoder
from rgjax.errors import UserError, first_few, first_line
from rgjax.losses import loss_of
from rgjax.models.factory import PRETRAINED, input_kind, make_model, starts_from_checkpoint, word_pieces
from rgjax.models.families import open_pretrained
from rgjax.models.frozen import Standardization
from rgjax.models.preprocessing import Preprocessing
from rgjax.models.pretrained import DEFAULT_BERT, TENSORS, BlankCheckpoint, Checkpoint, ShapedCheckpoint
from rgjax.models.tokenizer import FILES, WordPieces
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
        counts: examples of each pseudo-class [K] that the sampler drew from.
        indices: the training examples [N_train] in the data set.
        class_names: names of the C classes.
        data: fingerprint of the data set.
        tokens: fingerprint of the tokenizer and of the weights before training; "" for images.
        word_pieces: the tokenizer; None unless the network reads sentences.
        preprocessing: how a pretrained network of images sees them; None for other networks.
        kind: of the inputs: "images", "sentences" or "features".
        workdir: the folder of the run.
        encoder: whose features of the inputs a head reads; None for other networks. Of a run on features of unknown
            origin, inputs are these.
    """

    config: Config
    graph: nnx.GraphDef
    params: tuple[Any, Any]
    regrouping: Regrouping
    counts: np.ndarray
    indices: np.ndarray
    class_names: tuple[str, ...]
    data: str
    tokens: str
    word_pieces: WordPieces | None
    preprocessing: Preprocessing | None
    kind: str
    workdir: Path
    encoder: Encoder | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the network and its preprocessing of inputs."""
        weights = map(np.asarray, jax.tree.leaves(self.params))
        inputs = self.encoder.fingerprint if self.encoder else self.tokens
        return digest("run-v2", inputs, self.config.data.max_length, *weights)

    @property
    def width(self) -> int:
        """The number of features that a head reads."""
        return len(self.params[1]["mean"][...])


def load_run(
    workdir: Path, *, flag: str, ways_out: str, kind: str = "", dtype: str = "", checkpoint: str = ""
) -> FinishedRun:
    """Read the network that a run left in its workdir.

    Args:
        workdir: the folder of the run.
        flag: the flag or field by which the user named it; error messages begin with it.
        ways_out: what to do if a run of an older version needs a pretrained checkpoint that is gone.
        kind: "images" or "sentences", if the network must read these.
        dtype: the precision of its computations; the run's if empty.
        checkpoint: where that pretrained checkpoint is now, if it has moved.

    Raises:
        UserError: if the run is not finished, is damaged, or reads other inputs.
    """
    try:
        return _load_run(workdir, kind, {"model.dtype": dtype, "model.checkpoint": checkpoint}, ways_out)
    except (UserError, OSError) as error:
        raise UserError(f"{flag}={workdir}: cannot be used: {error}") from error


def _load_run(workdir: Path, kind: str, changes: dict[str, str], ways_out: str) -> FinishedRun:
    if not (workdir / "result.json").is_file() or not (workdir / "checkpoints").is_dir():
        raise UserError("not a finished run: result.json or checkpoints/ is missing")
    if damages := manifest.damages(workdir):
        raise UserError(f"{first_few(damages)} changed after the run ended; rerun its command to restore them")
    try:
        config = recorded_config(read_json_object(workdir / "config.json"))
        validate(config)
        with np.load(workdir / "regrouping.npz", allow_pickle=False) as file:
            regrouping = Regrouping(file["pseudo_labels"], file["parent"])
            # Older versions counted the training examples, whatever the sampler drew.
            counts = file.get("pool_counts", regrouping.counts)
            indices, class_names = file["rows"], tuple(file["class_names"].tolist())
        recorded = read_json_object(workdir / "provenance.json")
        data, weights = recorded["fingerprints"]["data"], recorded["fingerprints"].get("weights", "")
        for name, kind_of_value in (("max_length", int), ("image_size", int), ("interpolation", str)):
            if name in recorded:  # where the config says auto
                config.data[name] = kind_of_value(recorded[name])
    except _DAMAGE as error:
        raise UserError(f"its files are damaged: {type(error).__name__}: {first_line(error)}") from error
    config.update_from_flattened_dict({name: value for name, value in changes.items() if value})
    starts = starts_from_checkpoint(config.model)
    pretrained = _pretrained(workdir, config, weights, ways_out) if starts else None
    trained_on, encoder, standardization = input_kind(config.model, pretrained), None, None
    if config.model.name in FROZEN:
        trained_on, encoder, standardization = _encoder(config, recorded)
    if kind and trained_on != kind:
        raise UserError(f"it was trained on {trained_on}, not {kind}")
    head = loss_of(config.loss).head
    pieces = preprocessing = None
    if pretrained and trained_on == "sentences":
        pieces = word_pieces(config.model, pretrained, config.data.max_length)
    elif pretrained:
        preprocessing = replace(open_pretrained(pretrained).preprocessing, size=config.data.image_size)
    outputs = regrouping.num_pseudo_classes
    size = preprocessing.size if preprocessing else None
    how: dict[str, Any] = {"checkpoint": pretrained, "image_size": size, "standardization": standardization}
    model = make_model(config.model, outputs, head=head, seed=config.seed, **how)
    graph, state = init_state(model, config.train.optimizer)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, *_ = checkpoints.restore(state)
    checkpoints.close()
    if not int(state.step):
        raise UserError("no checkpoint found")
    params = jax.device_get((state.params, state.batch_stats))
    network = (config, graph, params, regrouping, counts, indices, class_names)
    return FinishedRun(*network, data, weights, pieces, preprocessing, trained_on, workdir, encoder)


def _encoder(config: Config, recorded: Mapping[str, Any]) -> tuple[str, Encoder, Standardization]:
    """Kind of inputs of a head's encoder, the encoder, a standardization of its width.

    Where the features came from a file, the inputs are features. Raises UserError if the encoder's weights are gone or
    have changed.
    """
    if "width" not in recorded.get("encoder", {}):
        raise UserError("its provenance.json holds no width of the features; train it again in another --workdir")
    width = int(recorded["encoder"]["width"])
    if config.data.name == "features" or config.encoder.name == "file":
        return "features", GIVEN, Standardization.blank(width)
    kind = "sentences" if config.data.name in TEXT_DATA else "images"
    options = {"max_length": config.data.max_length, "encoder_of_run": encoder_of_run}
    encoder = make_encoder(config.encoder, kind, began=recorded["encoder"], **options)
    return kind, encoder, Standardization.blank(width)


def _pretrained(workdir: Path, config: Config, fingerprint: str, ways_out: str) -> Checkpoint:
    """The settings and the tokenizer of the checkpoint that a run began with.

    The run has a copy of them. A run of an older version has none: they are read from the checkpoint itself, which must
    be the same as then.
    """
    if (workdir / PRETRAINED / TENSORS).is_file():
        recorded = read_json_object(workdir / PRETRAINED / TENSORS)
        return ShapedCheckpoint(str(workdir / PRETRAINED), recorded, ways_out=ways_out)
    if (workdir / PRETRAINED).is_dir():
        return BlankCheckpoint(str(workdir / PRETRAINED), ways_out=ways_out)
    checkpoint = Checkpoint(config.model.checkpoint or DEFAULT_BERT, ways_out=ways_out)
    if checkpoint.fingerprint(*FILES) != fingerprint:
        raise UserError(f"the checkpoint {checkpoint.name} has changed since the run began: give {ways_out}")
    return checkpoint


def encoder_of_run(workdir: Path, kind: str) -> Encoder:
    """An encoder to the penultimate features of a finished run's network.

    Raises UserError if the network does not read inputs of this kind.
    """
    if kind == "features":
        raise UserError(f"config.encoder.checkpoint={workdir}: runs encode images and sentences, not features")
    ways_out = "another encoder (--config.encoder.name=bert)"
    run = load_run(workdir, flag="config.encoder.checkpoint", ways_out=ways_out, kind=kind)

    def features(params, batch):
        return nnx.merge(run.graph, *params, copy=True).features(batch)

    def encode(inputs: Any) -> np.ndarray:
        if run.encoder:
            return np.asarray(features(run.params, jnp.asarray(run.encoder.encode(inputs))))
        if run.word_pieces:
            return encode_tokens(features, run.params, run.word_pieces(inputs))
        return encode_images(features, run.params, inputs, run.preprocessing and run.preprocessing.normalize)

    return Encoder(run.fingerprint, encode, run.encoder.reads if run.encoder else "inputs")
