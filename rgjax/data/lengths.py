"""Lengths of texts in tokens, and what a cut leaves unread."""

import re
from collections.abc import Iterable

import numpy as np

from rgjax.config import AUTO
from rgjax.data.notes import Note, note

BERT_TOKENS = 512  # what bert-base-uncased reads
_MULTIPLE, _COVERED = 64, 0.99

# A word is a token per six letters, an ideograph or a punctuation mark one. This gives 1.09 times the tokens of
# Financial PhraseBank's 4,846 sentences in bert-base-uncased's vocabulary, and 69 as their 99 % quantile (truth: 68).
_PIECE = re.compile(r"[\u2e80-\ua4cf\uac00-\ud7af]|\w{1,6}|[^\w\s]")


def estimated_tokens(texts: Iterable[str]) -> np.ndarray:
    """Estimate the tokens of texts [N], [CLS] and [SEP] included."""
    return np.array([2 + len(_PIECE.findall(text)) for text in texts], np.int32)


def text_length(max_length: int | str, lengths: np.ndarray, limit: int) -> int:
    """The tokens at which texts are cut: `max_length`, or a number for `AUTO`.

    Args:
        max_length: config.data.max_length.
        lengths: tokens of the training texts.
        limit: tokens that the network reads.

    Returns:
        For `AUTO`, the smallest multiple of 64 that covers 99 % of the texts, at most `limit`.
    """
    if max_length != AUTO:
        return int(max_length)
    covering = int(np.quantile(lengths, _COVERED, method="inverted_cdf"))
    return min(-(-covering // _MULTIPLE) * _MULTIPLE, limit)


def note_cuts(ids: np.ndarray, lengths: np.ndarray, max_length: int) -> tuple[Note, ...]:
    """The note on texts of more than `max_length` tokens.

    Args:
        ids: names of the texts [N].
        lengths: their tokens [N] without the cut.
        max_length: tokens at which they are cut.
    """
    unread = np.maximum(lengths - max_length, 0).sum() / max(lengths.sum(), 1)
    detail = f"{max_length} tokens, which leaves {percent(unread)} of all tokens unread"
    return note("cut_text", ids[lengths > max_length], detail=detail)


def percent(share: float) -> str:
    """A share in percent, to two digits: 0.49 %, 91 %."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"
