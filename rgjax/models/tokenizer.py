"""Sentences to tokens: WordPiece, BPE or Unigram, by a checkpoint's tokenizer."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "vocab.json", "merges.txt")
_CHARACTERS_PER_TOKEN = 100  # of a text are read first: a tokenizer takes ten seconds for ten megabytes
_CHUNK = 1024  # texts at a time, because the tokenizer keeps the tokens of a whole call in a bulky form


class Tokens(NamedTuple):
    """Sentences as int32 `ids` [N, T], padded with 0 on the right, and `lengths` [N]."""

    ids: np.ndarray
    lengths: np.ndarray

    def cut(self, max_length: int) -> "Tokens":
        """The same sentences, cut at `max_length` tokens; the last one, [SEP], is kept."""
        ids, cut = self.ids[:, :max_length].copy(), np.flatnonzero(self.lengths > max_length)
        ids[cut, -1] = self.ids[cut, self.lengths[cut] - 1]
        return Tokens(ids, np.minimum(self.lengths, np.int32(max_length)))


def tokenize(checkpoint: Checkpoint, config: dict[str, Any], sentences: np.ndarray, max_length: int) -> Tokens:
    """Tokens of all sentences [N], by the checkpoint's `WordPieces`."""
    return WordPieces(checkpoint, config, max_length)(sentences)


class WordPieces:
    """The tokenizer of a checkpoint.

    It cuts sentences at `max_length` tokens, [CLS] and [SEP] or their like included; if that is None, at as many as the
    network reads. It reads tokenizer.json; without that, the vocabulary files of the network's family. Raises UserError
    if these files are malformed or do not fit `config`, the settings of the network.
    """

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any], max_length: int | None):
        max_length = int(max_length or config["max_position_embeddings"])
        if max_length > config["max_position_embeddings"]:
            raise UserError(
                f"config.data.max_length={max_length}: checkpoint {checkpoint.name} reads at most "
                f"{config['max_position_embeddings']} tokens; lower it"
            )
        self._name, self._vocab_size, self.max_length = checkpoint.name, config["vocab_size"], max_length
        self._family = config.get("model_type", "bert")
        self._path = _tokenizer_file(checkpoint, self._family)
        with self._naming_the_file():
            self._backend = _read(self._path, self._family)
            if config.get("lower_case"):
                self._backend.normalizer = _lower_case_first(self._backend.normalizer)
            self._backend.no_padding()
            self._backend.enable_truncation(max_length)
            marks = self._backend.encode("").ids
            self._marks = len(marks)
            last = self._backend.encode("a").special_tokens_mask[-1:]  # `Tokens.cut` keeps the last token, no more
            known = self._backend.get_vocab_size(with_added_tokens=self._path.name == "tokenizer.json")
            if last != [1] or self._marks < 2 or max(marks) >= known:
                raise ValueError("it does not add [CLS] and [SEP], or what another family has in their place")

    def __call__(self, sentences: np.ndarray) -> Tokens:
        """Tokens of sentences [N], as long as the longest of them."""
        return self.read(sentences)[0]

    def read(self, sentences: np.ndarray) -> tuple[Tokens, np.ndarray]:
        """Tokens of sentences [N], and how many each would have without the cut [N]."""
        with self._naming_the_file():
            rows, uncut = self._encode(sentences.tolist())
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), lengths.max()), np.int32)
        tokens = np.concatenate(rows)
        if tokens.max() >= self._vocab_size:
            raise UserError(
                f"checkpoint {self._name}: its tokenizer gives token {tokens.max()}, but config.json has "
                f"vocab_size={self._vocab_size}"
            )
        ids[np.arange(ids.shape[1])[None] < lengths[:, None]] = tokens
        return Tokens(ids, lengths), np.array(uncut, np.int32)

    def _encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        limit = _CHARACTERS_PER_TOKEN * self.max_length
        rows, uncut = [], []
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            encodings = self._backend.encode_batch([text[:limit] for text in chunk])
            for text, encoding in zip(chunk, encodings, strict=True):
                read = min(len(text), limit)
                if read < len(text) and len(encoding) < self.max_length:  # a long word, or many spaces
                    encoding, read = self._backend.encode(text), len(text)
                rows.append(encoding.ids)
                length = len(encoding) + sum(len(rest) - self._marks for rest in encoding.overflowing)
                uncut.append(round(length * len(text) / read) if read else length)  # of a very long text, an estimate
        return rows, uncut

    def save(self, path: Path) -> None:
        """Write it as a tokenizer.json that cuts at `max_length`."""
        self._backend.save(str(path))

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the libraries raise plain Exception, among others
            family = self._family.replace("bert", "BERT")
            raise UserError(f"{self._path} is not a tokenizer of {family}: {error}") from error


def _tokenizer_file(checkpoint: Checkpoint, family: str) -> Path:
    """The file that the tokenizer is read from, with those beside it."""
    files = {name: checkpoint.file(name) for name in FILES}  # a hub's files must all be there
    if files["tokenizer.json"]:
        return files["tokenizer.json"]
    if family == "roberta":
        checkpoint.required("merges.txt")
        return checkpoint.required("vocab.json")
    if family in _VOCABULARIES:
        return checkpoint.required("vocab.txt")
    for name in _SENTENCEPIECE:
        if checkpoint.file(name):
            raise UserError(
                f"checkpoint {checkpoint.name} has {name} but no tokenizer.json; make one with sentencepiece: "
                "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
    return checkpoint.required("tokenizer.json")


_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")

# transformers' class for the vocabulary files of a family, where there is no tokenizer.json.
_VOCABULARIES = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
}


def _lower_case_first(normalizer):
    from tokenizers import normalizers  # with transformers, see `_read`

    return normalizers.Sequence([normalizers.Lowercase(), *([normalizer] if normalizer else [])])


def _read(path: Path, family: str):
    """The tokenizer in a tokenizer.json, or in the vocabulary files of a family.

    The latter are read with the tokenizer_config.json beside them. Not by AutoTokenizer: that makes BERT's tokenizer
    from the vocabulary alone, even where tokenizer.json asks for another normalization; and a tokenizer would depend on
    files that do not belong to a checkpoint's fingerprint.
    """
    # Imported here because it takes a second, which runs on images need not wait.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    import transformers

    if path.name == "tokenizer.json":
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path)).backend_tokenizer
    reader = getattr(transformers, _VOCABULARIES[family])
    return reader.from_pretrained(path.parent, local_files_only=True).backend_tokenizer
