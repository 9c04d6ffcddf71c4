"""Inputs as the network reads them."""

from dataclasses import replace

import numpy as np

from rgjax.config import AUTO, Config
from rgjax.data import Dataset
from rgjax.data.lengths import Cuts, text_length
from rgjax.models.factory import bert_checkpoint, reads_text, word_pieces
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
    if not reads_text(config.model, dataset.inputs):
        return config, dataset, dataset.inputs
    checkpoint, max_length = bert_checkpoint(config.model), recorded or config.data.max_length
    checkpoint.weight_files()  # fail now rather than after the encoder has run for minutes
    pieces = word_pieces(checkpoint, None if max_length == AUTO else max_length)
    tokens, lengths = pieces.read(dataset.inputs)
    max_length = text_length(max_length, lengths[dataset.train], pieces.max_length)

    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.max_length = max_length
    cuts = Cuts(max_length)
    cuts.add(dataset.ids, lengths)
    return config, replace(dataset, notes=(*dataset.notes, *cuts.notes())), tokens.cut(max_length)
