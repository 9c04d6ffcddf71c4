"""Lengths of texts in tokens, and what a cut leaves unread."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rgjax.config import AUTO
from rgjax.data.notes import Note, note
from rgjax.storage import hub

BERT_TOKENS = 512  # what bert-base-uncased reads
_MULTIPLE, _COVERED = 64, 0.99

# A word is a token per six letters, an ideograph or a punctuation mark one. This gives 1.09 times the tokens of
# Financial PhraseBank's 4,846 sentences in bert-base-uncased's vocabulary, and 69 as their 99 % quantile (truth: 68).
_PIECE = re.compile(r"[\u2e80-\ua4cf\uac00-\ud7af]|\w{1,6}|[^\w\s]")


def estimated_tokens(texts: Iterable[str]) -> np.ndarray:
    """Estimate the tokens of texts [N], [CLS] and [SEP] included."""
    return np.array([2 + len(_PIECE.findall(text)) for text in texts], np.int32)


def token_lengths(texts: Sequence[str]) -> tuple[np.ndarray, bool]:
    """Tokens of texts [N], [CLS] and [SEP] included, and whether they are exact.

    They are counted if the tokenizer of bert-base-uncased is in the Hugging Face hub's cache on disk, else estimated.
    """
    path = hub.cached("bert-base-uncased", "tokenizer.json")
    if path is None:
        return estimated_tokens(texts), False
    from tokenizers import Tokenizer  # imported here, as few need it

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return np.array([len(encoding) for encoding in tokenizer.encode_batch(list(texts))], np.int32), True


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


@dataclass
class Cuts:
    """Counts the texts of more than `max_length` tokens, as they are read."""

    max_length: int
    names: list[str] = field(default_factory=list)
    tokens: int = 0
    unread: int = 0

    def add(self, ids: Sequence[str] | np.ndarray, lengths: np.ndarray) -> None:
        """Add texts by their names [N] and their tokens [N] without the cut."""
        self.names += [str(ids[int(index)]) for index in np.flatnonzero(lengths > self.max_length)]
        self.tokens += int(lengths.sum())
        self.unread += int(np.maximum(lengths - self.max_length, 0).sum())

    def notes(self) -> tuple[Note, ...]:
        share = self.unread / max(self.tokens, 1)
        detail = f"{self.max_length} tokens, which leaves {percent(share)} of all tokens unread"
        return note("cut_text", self.names, detail=detail)


def percent(share: float) -> str:
    """A share in percent, to two digits: 0.49 %, 91 %."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"
