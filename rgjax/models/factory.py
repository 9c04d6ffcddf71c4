"""Makes networks and their tokenizers from the config's section `model`."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.config import FROZEN
from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.bert import Bert, BertClassifier, bert_config
from rgjax.models.classifier import Classifier
from rgjax.models.efficientnet import VARIANTS as EFFICIENTNETS
from rgjax.models.efficientnet import EfficientNetLite
from rgjax.models.families import open_pretrained
from rgjax.models.frozen import FeatureClassifier, Standardization
from rgjax.models.layers import BatchNorm, widen
from rgjax.models.packing import prepare_tokens
from rgjax.models.pooling import SENTENCE_FILES
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint, Tensors
from rgjax.models.resnet import Numerics, ResNet
from rgjax.models.tokenizer import FILES, WordPieces
from rgjax.sharding import AXIS

Network: TypeAlias = ResNet | BertClassifier | Classifier | FeatureClassifier

# What a run keeps of a checkpoint, in a folder of this name: all but the weights, which its own state replaces.
PRETRAINED = "pretrained"
_PREPROCESSING_FILES = ("preprocessor_config.json", "processor_config.json")
PRETRAINED_FILES = ("config.json", *FILES, *SENTENCE_FILES, *_PREPROCESSING_FILES)


def make_model(
    config: Any,
    outputs: int,
    *,
    head: str,
    seed: int,
    checkpoint: Checkpoint | None = None,
    image_size: int | None = None,
    standardization: Standardization | None = None,
) -> Network:
    """The network before training.

    Args:
        config: the section `model`.
        outputs: number of pseudo-classes; the head is padded to `padded(outputs)`.
        head: the head that the loss needs, for `config.head=auto`.
        seed: seed of the initial weights.
        checkpoint: pretrained weights; those that the config names if None.
        image_size: side in pixels of the images that a pretrained network reads; the checkpoint's if None.
        standardization: of the features that "linear" and "mlp" read.

    Raises:
        UserError: for a checkpoint that is unavailable, corrupted or of another architecture.
    """
    head = head if config.head == "auto" else config.head
    dtype, rng = compute_dtype(config, jax.default_backend()), np.random.default_rng(seed)
    norm = partial(BatchNorm, axis=AXIS, local=config.batch_norm == "local")
    unroll = unrolled_layers(config, jax.default_backend())
    if config.name == "bert":
        checkpoint = checkpoint or model_checkpoint(config)
        settings = bert_config(checkpoint)

        def classifier(tensors: Tensors) -> BertClassifier:
            bert = Bert(tensors, settings, dropout=config.dropout, unroll=unroll, dtype=dtype)
            return BertClassifier(bert, tensors, outputs, head=head, rng=rng)

        network = checkpoint.build(classifier)
    elif config.name == "pretrained":
        how = {"dropout": config.dropout, "unroll": unroll, "image_size": image_size, "norm": norm}
        backbone = open_pretrained(checkpoint or model_checkpoint(config)).build(Options(dtype=dtype, **how))
        network = Classifier(backbone, outputs, head=head, dropout=config.dropout, rng=rng)
    elif config.name in FROZEN:
        if standardization is None:
            raise ValueError(f"model.name={config.name} needs the standardization of its features")
        hidden = config.hidden if config.name == "mlp" else 0
        how = {"hidden": hidden, "head": head, "dropout": config.dropout, "dtype": dtype, "rng": rng}
        network = FeatureClassifier(standardization, outputs, **how)
    elif config.name in EFFICIENTNETS:
        backbone = EfficientNetLite(config.name, Options(dtype=dtype, norm=norm), rng=rng)
        network = Classifier(backbone, outputs, head=head, dropout=config.dropout, rng=rng)
    else:
        numerics = Numerics(norm=norm, recompute=recomputes(config, jax.default_backend()), dtype=dtype)
        how = {"stem": config.stem, "width": config.width, "numerics": numerics}
        network = ResNet(config.name, outputs, head=head, rng=rng, **how)
    widen(network.head, padded(outputs))
    return network


def padded(outputs: int) -> int:
    """The output width: a multiple of 128, so that runs share one compiled program."""
    return -(-outputs // 128) * 128


def compute_dtype(config: Any, platform: str) -> jnp.dtype:
    """The dtype of activations; "auto" is bfloat16 where the hardware has it.

    CPUs, V100 and T4 do not have it.
    """
    automatic = "bfloat16" if platform != "cpu" and _has_bfloat16() else "float32"
    return jnp.dtype(automatic if config.dtype == "auto" else config.dtype)


def _has_bfloat16() -> bool:
    """Whether all GPUs of this process have compute capability 8.0 (Ampere) or more."""
    capabilities = (str(getattr(device, "compute_capability", "")) for device in jax.devices())
    return not any(re.fullmatch(r"[1-7]\.\d", capability) for capability in capabilities)


def recomputes(config: Any, platform: str) -> bool:
    """Whether ResNets store less for the gradient and recompute it."""
    return config.recompute == "yes" or (config.recompute == "auto" and platform == "tpu")


def unrolled_layers(config: Any, platform: str) -> int | bool:
    """How many layers of a transformer are compiled one after the other; True: all."""
    return config.unroll or config.unroll_layers or (3 if platform in ("gpu", "cuda") else 1)


def on_platform(config: Any, platform: str) -> Any:
    """The section `model` with what its `auto` means on a platform."""
    config = config.copy_and_resolve_references()
    config.unroll_layers = int(unrolled_layers(config, platform))
    config.dtype = compute_dtype(config, platform).name
    config.recompute = "yes" if recomputes(config, platform) else "no"
    return config


def starts_from_checkpoint(config: Any) -> bool:
    return config.name in ("bert", "pretrained")


def model_checkpoint(config: Any) -> Checkpoint:
    """The pretrained weights that the network starts from."""
    name = config.checkpoint or (DEFAULT_BERT if config.name == "bert" else "")
    if not name:
        raise UserError(
            "config.model.checkpoint: is empty, and model.name=pretrained needs a folder or a name on Hugging Face's "
            "hub; use for example --config.model.checkpoint=efficientnet-lite0"
        )
    return Checkpoint(name, ways_out="a local folder (--config.model.checkpoint=FOLDER)")


def word_pieces(config: Any, checkpoint: Checkpoint, max_length: int | None) -> WordPieces:
    """The tokenizer of a checkpoint; None cuts at what the network reads.

    `config` is the section `model`.
    """
    return WordPieces(checkpoint, checkpoint_settings(config, checkpoint), max_length)


def checkpoint_settings(config: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a checkpoint, read for the network of the section `model`."""
    return bert_config(checkpoint) if config.name == "bert" else open_pretrained(checkpoint).settings


def reads_text(config: Any, inputs: np.ndarray) -> bool:
    """Whether the network reads sentences. Raises UserError for other inputs."""
    kind, kind_of_inputs = input_kind(config), "sentences" if inputs.ndim == 1 else "images"
    if kind == "features":
        return False  # but features, of any inputs
    if inputs.ndim == 2:
        raise UserError(f"config.model.name={config.name}: cannot read features; use --config.model.name=mlp")
    if kind != kind_of_inputs:
        if config.name == "pretrained":
            raise UserError(f"config.model.checkpoint={config.checkpoint}: reads {kind}, not {kind_of_inputs}")
        name = "bert" if kind_of_inputs == "sentences" else "resnet34"
        raise UserError(
            f"config.model.name={config.name}: cannot read {kind_of_inputs}; use --config.model.name={name}"
        )
    return kind == "sentences"


def input_kind(config: Any, checkpoint: Checkpoint | None = None) -> str:
    """The kind of inputs that the network reads.

    "images", "sentences" or "features". A pretrained network is that of `checkpoint`, or of the one that the config
    names.
    """
    if config.name in FROZEN:
        return "features"
    if config.name == "pretrained":
        return open_pretrained(checkpoint or model_checkpoint(config)).kind
    return "sentences" if config.name == "bert" else "images"


def packing(tokens: int) -> Callable:
    """Packing for batches of up to `tokens` tokens.

    Rounded up to a multiple of 64, so that most seeds and methods share a program.
    """
    return partial(prepare_tokens, budget=-(-int(tokens) // 64) * 64)
