"""Custom text: sentences in a table."""

import numpy as np

from rgjax.config import Config
from rgjax.data.custom import list_sentences
from rgjax.data.dataset import Source
from rgjax.data.listing import Listing
from rgjax.data.tables.columns import Columns
from rgjax.storage.files import digest


def load(config: Config) -> Source:
    """The sentences, of any length, of the table in `config.manual_dir`."""
    listing = list_sentences(config.manual_dir, Columns.parse(config.columns), config.unreadable)
    return listing.source(_strings(listing), digest("text", *listing.items, *listing.labels, *listing.ids))


def spec(config: Config) -> Source:
    """The same examples."""
    listing = list_sentences(config.manual_dir, Columns.parse(config.columns), config.unreadable)
    return listing.source(_strings(listing), "spec")


def _strings(listing: Listing[str]) -> np.ndarray:
    # Of variable length: NumPy's usual string arrays give every sentence the memory of the longest.
    return np.array(listing.items, np.dtypes.StringDType())
