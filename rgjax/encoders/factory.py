"""Encoders from the config's section `encoder`."""

from collections.abc import Callable
from typing import Any

from rgjax.config import ENCODERS
from rgjax.console import local_path
from rgjax.encoders.bert import bert
from rgjax.encoders.clip import DEFAULT_CLIP, clip
from rgjax.encoders.encoder import Encoder
from rgjax.encoders.projection import projection
from rgjax.errors import UserError
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint


def make_encoder(config: Any, kind: str, *, max_length: int, encoder_of_run: Callable[..., Encoder]) -> Encoder:
    """The encoder of `kind` ("images" or "sentences"); weights are fetched and read when features are computed.

    Args:
        config: the section `encoder`.
        kind: what is encoded.
        max_length: tokens at which sentences are cut.
        encoder_of_run: `(workdir, kind) -> Encoder`, for the features of a finished run.

    Raises:
        UserError: for an encoder that cannot read inputs of this kind, or a checkpoint that does not exist.
    """
    name = ENCODERS[kind][0] if config.name == "auto" else config.name
    if name == "checkpoint":
        return encoder_of_run(local_path(config.checkpoint), kind)
    if name not in ENCODERS[kind]:
        valid = ", ".join((*ENCODERS[kind], "checkpoint"))
        raise UserError(f"config.encoder.name={name}: cannot encode {kind}; use {valid}")
    if name == "projection":
        return projection(seed=config.seed)
    other = "projection" if kind == "images" else "checkpoint"
    ways_out = f"a local folder (--config.encoder.checkpoint=FOLDER) or another encoder (--config.encoder.name={other})"
    if name == "clip":
        return clip(Checkpoint(config.checkpoint or DEFAULT_CLIP, ways_out=ways_out), unit_length=config.unit_length)
    weights = Checkpoint(config.checkpoint or DEFAULT_BERT, ways_out=ways_out)
    return bert(weights, pooling=config.pooling, max_length=max_length)
