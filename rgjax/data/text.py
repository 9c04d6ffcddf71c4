"""Custom text: sentences in a table."""

import numpy as np

from rgjax.config import Config
from rgjax.data.custom import list_sentences
from rgjax.data.dataset import Source
from rgjax.storage.files import digest


def load(config: Config) -> Source:
    """The sentences, of any length, of the table in `config.manual_dir`."""
    listing = list_sentences(config.manual_dir)
    # Variable-length strings: NumPy's usual string arrays give every sentence the memory of the longest.
    inputs = np.array(listing.items, np.dtypes.StringDType())
    return listing.source(inputs, digest("text", *listing.items, *listing.labels, *listing.ids))


def spec(config: Config) -> Source:
    """The same examples with empty sentences."""
    listing = list_sentences(config.manual_dir)
    return listing.source(np.broadcast_to(np.array(""), len(listing.items)), "spec")
