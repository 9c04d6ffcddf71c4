"""Sentences of one's own, listed in a table."""

import numpy as np

from rgjax.data.custom import list_sentences
from rgjax.data.dataset import Source
from rgjax.storage.files import digest


def load(*, manual_dir: str = "") -> Source:
    """The sentences that `own.list_sentences` finds, of any length."""
    listing = list_sentences(manual_dir)
    # Of a length of its own each: in NumPy's usual arrays every sentence takes the room of the longest.
    inputs = np.array(listing.items, np.dtypes.StringDType())
    return listing.source(inputs, digest("text", *listing.items, *listing.labels, *listing.ids))


def spec(*, manual_dir: str = "") -> Source:
    """The same rows without their text."""
    listing = list_sentences(manual_dir)
    return listing.source(np.broadcast_to(np.array(""), len(listing.items)), "spec")
