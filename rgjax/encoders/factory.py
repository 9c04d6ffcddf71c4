"""Encoders by name.

A new encoder is a module, its entry in `MAKERS`, and its name in `config.ENCODERS`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rgjax.config import ENCODERS
from rgjax.console import local_path
from rgjax.encoders.clip import DEFAULT_CLIP, clip
from rgjax.encoders.encoder import Encoder
from rgjax.encoders.projection import projection
from rgjax.encoders.text import bert
from rgjax.errors import UserError
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint


def _clip(config: Any, max_length: int) -> Encoder:
    return clip(_checkpoint(config, DEFAULT_CLIP, instead="projection"), unit_length=config.unit_length)


def _projection(config: Any, max_length: int) -> Encoder:
    return projection(seed=config.seed)


def _bert(config: Any, max_length: int) -> Encoder:
    weights = _checkpoint(config, DEFAULT_BERT, instead="checkpoint")
    return bert(weights, pooling=config.pooling, max_length=max_length)


# From the config's section `encoder` and the tokens at which sentences are cut.
MAKERS: Mapping[str, Callable[[Any, int], Encoder]] = {"clip": _clip, "projection": _projection, "bert": _bert}


def make_encoder(config: Any, kind: str, *, max_length: int, encoder_of_run: Callable[..., Encoder]) -> Encoder:
    """The encoder of a config; large weights are read when features are computed.

    Args:
        config: the section `encoder`.
        kind: the inputs: "images" or "sentences".
        max_length: tokens at which sentences are cut.
        encoder_of_run: `(workdir, kind) -> Encoder`, for the features of a finished run.

    Raises:
        UserError: for an encoder that cannot read this kind, or a checkpoint that is unavailable.
    """
    if config.name == "checkpoint":
        return encoder_of_run(local_path(config.checkpoint), kind)
    name = ENCODERS[kind][0] if config.name == "auto" else config.name
    if name not in ENCODERS[kind]:
        valid = ", ".join((*ENCODERS[kind], "checkpoint"))
        raise UserError(f"config.encoder.name={name}: cannot encode {kind}; use {valid}")
    return MAKERS[name](config, max_length)


def _checkpoint(config: Any, default: str, *, instead: str) -> Checkpoint:
    ways_out = "a local folder (--config.encoder.checkpoint=FOLDER) or another encoder (--config.encoder.name={})"
    return Checkpoint(config.checkpoint or default, ways_out=ways_out.format(instead))
