"""From the settings to the parts of a run: data, encoder, network, loss, plan and hyper-parameters."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax import data, manifest
from rgjax.config import Config, duration, recorded_config
from rgjax.encoders import Encoder
from rgjax.encoders.bert import DEFAULT as BERT
from rgjax.encoders.bert import bert, encode_tokens
from rgjax.encoders.clip import DEFAULT as CLIP
from rgjax.encoders.clip import clip
from rgjax.encoders.projection import encode_images, projection
from rgjax.errors import UserError, first_few
from rgjax.losses import LOSSES, ClassStats, Loss, adjust_logits
from rgjax.models.layers import BatchNorm, widen
from rgjax.models.packing import prepare_tokens
from rgjax.models.pretrained import Checkpoint
from rgjax.models.resnet import ResNet
from rgjax.models.tokenizer import FILES, Tokens, WordPieces, tokenise
from rgjax.models.transformer import BertClassifier, bert_config
from rgjax.regroup import Regrouping
from rgjax.storage import digest, local
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import Plan
from rgjax.training.program import AXIS, Hyper, init_state

Say: TypeAlias = Callable[[str], None]
Array: TypeAlias = Any  # of NumPy or of JAX, as it came


def load_data(config: Config, *, outline: bool = False) -> data.Dataset:
    """The data set of the config, or its mere `outline`: size, classes and split, without content or download."""
    dataset = data.load(
        config.data.name,
        image_size=config.data.image_size,
        manual_dir=config.data.manual_dir,
        data_dir=config.data.data_dir,
        agreement=config.data.agreement,
        unreadable=config.data.unreadable,
        split_kind=config.data.split,
        positive=config.data.positive,
        seed=config.data.seed,
        test_fraction=config.data.test_fraction,
        val_fraction=config.data.val_fraction,
        outline=outline,
    )
    if config.train.batch_size > len(dataset.train):
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is larger than the training set of "
            f"{len(dataset.train)} {dataset.kind}: lower it"
        )
    if config.sampler == "deepsmote" and dataset.kind != "images":
        raise UserError(f"config.sampler=deepsmote makes images, not {dataset.kind}: use --config.sampler=ros")
    return dataset


def make_encoder(config: Config, kind: str, say: Say) -> Encoder:
    """The encoder of the config; its weights are fetched and read only when features are computed."""
    name, checkpoint = config.encoder.name, config.encoder.checkpoint
    by_kind = {"images": ("clip", "projection"), "sentences": ("bert",)}
    if name == "auto":
        name = by_kind[kind][0]
    if name == "checkpoint":
        return encoder_of_run(local(checkpoint), kind, say)
    if name not in by_kind[kind]:
        others = ", ".join((*by_kind[kind], "checkpoint"))
        raise UserError(f"config.encoder.name={name} cannot encode {kind}: use {others}")
    if name == "projection":
        return projection(seed=config.encoder.seed)
    other = "projection" if kind == "images" else "checkpoint"
    ways_out = f"a local folder (--config.encoder.checkpoint=FOLDER) or another encoder (--config.encoder.name={other})"
    if name == "clip":
        weights = Checkpoint(checkpoint or CLIP, ways_out=ways_out)
        return clip(weights, unit_length=config.encoder.unit_length, say=say)
    weights = Checkpoint(checkpoint or BERT, ways_out=ways_out)
    return bert(weights, pooling=config.encoder.pooling, max_length=config.data.max_length, say=say)


class Finished(NamedTuple):
    """The network of a finished run: the run's settings, the network's structure, its parameters and batch statistics
    on the host; the label map and the rows [N_train] of the data set that it was trained on; the names of the classes;
    and what stands for the data set, and for the tokenizer and the weights before training ("" for images)."""

    config: Config
    graph: nnx.GraphDef
    params: Any
    regrouping: Regrouping
    rows: np.ndarray
    class_names: tuple[str, ...]
    data: str
    tokens: str

    @property
    def kind(self) -> str:
        return kind_read(self.config)

    @property
    def fingerprint(self) -> str:
        """Stands for the network and all that it makes of its inputs."""
        weights = map(np.asarray, jax.tree.leaves(self.params))
        return digest("run-v2", self.tokens, self.config.data.max_length, *weights)


def restore(workdir: Path, say: Say, *, flag: str, kind: str = "", dtype: str = "") -> Finished:
    """The network that a run has left in its workdir, for inputs of the `kind` if given, computing in `dtype` if given.

    Raises UserError that begins with the `flag` by which the user named the workdir.
    """
    try:
        if not (workdir / "result.json").is_file() or not (workdir / "checkpoints").is_dir():
            raise UserError("it is no workdir of a finished run, with its checkpoint")
        if damages := manifest.damages(workdir):
            raise UserError(f"{first_few(damages)} in it changed after the run's end: its own command makes that anew")
        config = recorded_config(json.loads((workdir / "config.json").read_text()))
        config.model.dtype = dtype or config.model.dtype
        with np.load(workdir / "regrouping.npz", allow_pickle=False) as file:
            regrouping = Regrouping(file["pseudo_labels"], file["parent"])
            rows, class_names = file["rows"], tuple(file["class_names"].tolist())
        trained_on = kind_read(config)
        if kind and trained_on != kind:
            raise UserError(f"it was trained on {trained_on}, not {kind}")
        graph, state = init_state(make_model(config, regrouping.num_pseudo_classes, say), config.train.optimizer)
        checkpoints = Checkpoints(workdir / "checkpoints")
        state, *_ = checkpoints.restore(state)
        checkpoints.close()
        if not int(state.step):
            raise UserError("its checkpoint is gone")
        tokens = bert_checkpoint(config).fingerprint(*FILES) if trained_on == "sentences" else ""
        before = json.loads((workdir / "provenance.json").read_text())["fingerprints"]
        if tokens != before.get("weights", ""):
            raise UserError(f"it began with another checkpoint than there is in {bert_checkpoint(config).name} now")
    except Exception as error:  # whatever is damaged in that run, the way out is the same
        raise UserError(f"{flag}={workdir} cannot be used: {error}") from error
    params = jax.device_get((state.params, state.batch_stats))
    return Finished(config, graph, params, regrouping, rows, class_names, before["data"], tokens)


def encoder_of_run(workdir: Path, kind: str, say: Say) -> Encoder:
    """The penultimate features of the network that an earlier run has trained, on data of the same kind."""
    run = restore(workdir, say, flag="config.encoder.checkpoint", kind=kind)
    graph = run.graph

    def encode(inputs: np.ndarray) -> np.ndarray:
        rows = network_inputs(run.config, inputs)
        if isinstance(rows, Tokens):
            return encode_tokens(lambda params, packed: nnx.merge(graph, *params).features(packed), run.params, rows)
        return encode_images(lambda params, x: nnx.merge(graph, *params, copy=True).features(x), run.params, rows)

    return Encoder(run.fingerprint, encode)


def make_plan(config: Config, rows_per_epoch: int) -> Plan:
    train = config.train
    steps_per_epoch = max(1, rows_per_epoch // train.batch_size)
    total_steps = train.steps or train.epochs * steps_per_epoch
    adapts = jax.process_count() == 1  # several would not agree on the length of a call
    steps = partial(duration, config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return Plan(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        steps_per_call=train.steps_per_call or (None if adapts else steps_per_epoch),
        warmup=steps("train.warmup") or 0,
        drw_start=steps("loss.drw_start"),
        eval_every=steps("train.eval", whole_epochs=True) or total_steps,
        checkpoint_every=steps("train.checkpoint", whole_epochs=True) or total_steps,
        batch_size=train.batch_size,
    )


def make_hyper(config: Config, plan: Plan, loss: Loss, stats: ClassStats) -> Hyper:
    outputs = len(stats.counts)
    weights = stats.inverse_weights if config.loss.name == "wce" else np.ones(outputs, np.float32)

    def wide(values):
        return np.pad(values, (0, padded(outputs) - outputs)) if np.ndim(values) else values

    augmentation = {}
    if config.model.name != "bert":
        flip, rotation = 0.5 if config.data.flip else 0.0, config.data.rotation
        augmentation = {"flip": np.float32(flip), "rotation": np.float32(rotation)}
    return Hyper(
        lr=np.float32(config.train.lr),
        momentum=np.float32(config.train.momentum),
        weight_decay=np.float32(config.train.weight_decay),
        warmup_steps=np.int32(plan.warmup),
        total_steps=np.int32(plan.total_steps),
        outputs=np.int32(outputs),
        augmentation=augmentation,
        loss={name: wide(value) for name, value in loss.arguments(config.loss, stats).items()},
        class_weights=wide(weights),
        drw_weights=wide(weights if plan.drw_start is None else stats.effective_weights()),
        drw_start=np.int32(plan.total_steps if plan.drw_start is None else plan.drw_start),
    )


def loss_of(config: Config) -> Loss:
    """What is trained by: post-hoc logit adjustment trains by cross-entropy."""
    return LOSSES["ce" if adjusts_posthoc(config) else config.loss.name]


def adjusts_posthoc(config: Config) -> bool:
    return config.loss.name == "la" and config.loss.posthoc


def class_stats(config: Config, regrouping: Regrouping) -> ClassStats:
    """What the loss knows of the sizes of the (pseudo-)classes."""
    return ClassStats(regrouping.class_counts if config.loss.stats == "class" else regrouping.counts)


def as_trained(config: Config, stats: ClassStats, logits: Array) -> Array:
    """A network's outputs [n, K] as the logits that its loss was taken of, adjusted where that is left for now."""
    logits = logits * np.float32(loss_of(config).scale(config.loss))
    return adjust_logits(logits, stats.prior, np.float32(config.loss.tau)) if adjusts_posthoc(config) else logits


def make_model(
    config: Config, outputs: int, say: Say, *, platform: str | None = None, checkpoint: Checkpoint | None = None
) -> ResNet | BertClassifier:
    """The network before training, for the `platform` that it will run on (JAX's own one if None).

    BERT is built of the `checkpoint`, of the config's if None.
    """
    model = config.model
    head = loss_of(config).head if model.head == "auto" else model.head
    platform = platform or jax.default_backend()
    dtype = compute_dtype(config, platform)
    rng = np.random.default_rng(config.seed)
    if model.name == "bert":
        checkpoint = checkpoint or bert_checkpoint(config)
        settings = bert_config(checkpoint)
        network = checkpoint.build(
            lambda tensors: BertClassifier(
                tensors,
                settings,
                outputs,
                head=head,
                dropout=model.dropout,
                unroll=model.unroll,
                dtype=dtype,
                rng=rng,
            ),
            say,
        )
    else:
        norm = partial(BatchNorm, axis=AXIS, local=model.batch_norm == "local")
        network = ResNet(
            model.name,
            outputs,
            stem=model.stem,
            head=head,
            width=model.width,
            norm=norm,
            recompute=model.recompute == "yes" or (model.recompute == "auto" and platform == "tpu"),
            dtype=dtype,
            rng=rng,
        )
    widen(network.head, padded(outputs))
    return network


def padded(outputs: int) -> int:
    """The outputs of a network for so many (pseudo-)classes: thresholds of a grid mostly share a program."""
    return -(-outputs // 128) * 128


def compute_dtype(config: Config, platform: str) -> jnp.dtype:
    automatic = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(automatic if config.model.dtype == "auto" else config.model.dtype)


def bert_checkpoint(config: Config) -> Checkpoint:
    return Checkpoint(config.model.checkpoint or BERT, ways_out="a local folder (--config.model.checkpoint=FOLDER)")


def network_inputs(config: Config, inputs: np.ndarray) -> np.ndarray | Tokens:
    """Rows of a data set as the network's program reads them: images as they are, sentences as tokens."""
    if not reads_text(config, inputs):
        return inputs
    checkpoint = bert_checkpoint(config)
    checkpoint.weight_files()  # found missing now, not after the encoder's long work
    return tokenise(checkpoint, bert_config(checkpoint), inputs, config.data.max_length)


def word_pieces(config: Config) -> WordPieces:
    """The tokenizer of a network that reads sentences."""
    checkpoint = bert_checkpoint(config)
    return WordPieces(checkpoint, bert_config(checkpoint), config.data.max_length)


def reads_text(config: Config, inputs: np.ndarray) -> bool:
    """Whether the network reads sentences. Raises UserError where the data set's rows are not of its kind."""
    text, name = inputs.ndim == 1, config.model.name
    if text != (name == "bert"):
        kind, fitting = ("sentences", "bert") if text else ("images", "resnet34")
        raise UserError(f"config.model.name={name} does not read {kind}: use --config.model.name={fitting}")
    return text


def kind_read(config: Config) -> str:
    """What the network reads: "images" or "sentences"."""
    return "sentences" if config.model.name == "bert" else "images"


def packing(tokens: int) -> Callable:
    """The preparation of batches of at most `tokens`; rounded up, so that seeds and methods mostly share a program."""
    return partial(prepare_tokens, budget=-(-int(tokens) // 64) * 64)
