"""Inputs as the network reads them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rgjax.config import AUTO, FROZEN, Config
from rgjax.data import Dataset
from rgjax.data.lengths import BERT_TOKENS, Cuts, estimated_tokens, text_length
from rgjax.errors import UserError
from rgjax.models.factory import model_checkpoint, reads_text, word_pieces
from rgjax.models.families import open_pretrained
from rgjax.models.preprocessing import Preprocessing
from rgjax.models.tokenizer import Tokens


def network_inputs(
    config: Config, dataset: Dataset, recorded: int | None
) -> tuple[Config, Dataset, np.ndarray | Tokens]:
    """Inputs as the network reads them: images unchanged, sentences as tokens.

    Args:
        config: of the run.
        dataset: with its splits.
        recorded: what the run recorded as its `data.max_length` when it began, if it is resumed.

    Returns:
        The config with a number as `data.max_length`; the dataset with a note on texts that are cut; the inputs.
    """
    max_length = recorded or config.data.max_length
    if config.model.name in FROZEN and dataset.kind == "sentences":
        # The tokenizer is the encoder's, which is opened only where features are not cached.
        inputs, lengths = dataset.inputs, estimated_tokens(dataset.inputs)
        max_length = text_length(max_length, lengths[dataset.train], BERT_TOKENS)
    elif reads_text(config.model, dataset.inputs):
        checkpoint = model_checkpoint(config.model)
        checkpoint.weight_files()  # fail now rather than after the encoder has run for minutes
        pieces = word_pieces(config.model, checkpoint, None if max_length == AUTO else max_length)
        tokens, lengths = pieces.read(dataset.inputs)
        max_length = text_length(max_length, lengths[dataset.train], pieces.max_length)
        inputs = tokens.cut(max_length)
    else:
        return config, dataset, dataset.inputs

    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.max_length = max_length
    cuts = Cuts(max_length)
    cuts.add(dataset.ids, lengths)
    return config, replace(dataset, notes=(*dataset.notes, *cuts.notes())), inputs


def resolve_images(config: Config, recorded: Mapping[str, Any]) -> tuple[Config, Preprocessing | None]:
    """What `auto` means for the size and interpolation of images.

    Args:
        config: of the run.
        recorded: both fields as the run recorded them when it began, if it is resumed.

    Returns:
        The config without `auto`, and how a pretrained network of images sees them: whole, squeezed into a square of
        this size, and with the checkpoint's normalization.

    Raises:
        UserError: for a size that the network cannot read.
    """
    pretrained = open_pretrained(model_checkpoint(config.model)) if config.model.name == "pretrained" else None
    if pretrained is None or pretrained.kind != "images":
        if config.data.image_size == AUTO and pretrained is None:
            raise UserError(
                f"config.data.image_size=auto: config.model.name={config.model.name} has no size of its own; "
                "give one, such as --config.data.image_size=224"
            )
        return config, None
    preprocessing, checkpoint = pretrained.preprocessing, pretrained.checkpoint.name
    size, interpolation = (recorded.get(name, config.data[name]) for name in ("image_size", "interpolation"))
    size = preprocessing.size if size == AUTO else int(size)
    patch = pretrained.settings.get("patch_size", 1)
    if size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        raise UserError(
            f"config.data.image_size={size}: not a multiple of the {patch} pixels of a patch of checkpoint "
            f"{checkpoint}; use {f'{below} or ' if below else ''}{above}"
        )
    interpolation = preprocessing.interpolation if interpolation == AUTO else str(interpolation).upper()
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.update({"image_size": size, "interpolation": interpolation.lower()})
    return config, replace(preprocessing, size=size, interpolation=interpolation)
