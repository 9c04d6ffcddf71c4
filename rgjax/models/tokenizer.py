"""Sentences to word-piece tokens, by the tokenizer that comes with a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
_CHARACTERS = 100  # a token: so much of a sentence is read first, as ten megabytes take ten seconds


class Tokens(NamedTuple):
    """Sentences as token numbers `ids` int32 [N, T], padded by 0 at the right of their `lengths` int32 [N]."""

    ids: np.ndarray
    lengths: np.ndarray


def tokenize(checkpoint: Checkpoint, config: dict[str, Any], sentences: np.ndarray, max_length: int) -> Tokens:
    """Tokens of all sentences [N], as `WordPieces` makes them."""
    return WordPieces(checkpoint, config, max_length)(sentences)


class WordPieces:
    """The tokenizer of a BERT checkpoint, which cuts sentences at `max_length` tokens.

    Reads tokenizer.json, else vocab.txt. Raises UserError where it does not fit the checkpoint's `config`.
    """

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any], max_length: int):
        if max_length > config["max_position_embeddings"]:
            raise UserError(
                f"config.data.max_length={max_length} is more than the {config['max_position_embeddings']} tokens of "
                f"checkpoint {checkpoint.name}: lower it"
            )
        self._name, self._vocabulary, self.max_length = checkpoint.name, config["vocab_size"], max_length
        self._path = checkpoint.file("tokenizer.json") or checkpoint.required("vocab.txt")
        lowercase = True
        if self._path.name == "vocab.txt" and checkpoint.file("tokenizer_config.json"):
            lowercase = checkpoint.json("tokenizer_config.json").get("do_lower_case") is not False
        with self._told():
            self._tokenizer = _read(self._path, lowercase)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_length)
            if self._tokenizer.num_special_tokens_to_add(False) != 2:
                raise ValueError("it does not add [CLS] and [SEP]")

    def __call__(self, sentences: np.ndarray) -> Tokens:
        """Tokens of all sentences [N], [CLS] and [SEP] included; T is the longest of them."""
        with self._told():
            rows = self._encode(sentences.tolist())
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), lengths.max()), np.int32)
        tokens = np.concatenate(rows)
        if tokens.max() >= self._vocabulary:
            raise UserError(
                f"checkpoint {self._name}: its tokenizer gives token {tokens.max()}, but its config.json has only "
                f"{self._vocabulary}"
            )
        ids[np.arange(ids.shape[1])[None] < lengths[:, None]] = tokens
        return Tokens(ids, lengths)

    def _encode(self, sentences: list[str]) -> list[list[int]]:
        within = _CHARACTERS * self.max_length
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch([text[:within] for text in sentences])]
        for row, text in enumerate(sentences):
            if len(text) > within and len(rows[row]) < self.max_length:  # a long word, or many spaces
                rows[row] = self._tokenizer.encode(text).ids
        return rows

    def save(self, path: Path) -> None:
        """Write it in the form of a tokenizer.json, with the length that it cuts at."""
        self._tokenizer.save(str(path))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{self._path} is no tokenizer of BERT's: {error}") from error


def _read(path: Path, lowercase: bool):
    from tokenizers import Tokenizer
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    if path.name == "vocab.txt":
        return BertWordPieceTokenizer(str(path), lowercase=lowercase)
    return Tokenizer.from_file(str(path))
