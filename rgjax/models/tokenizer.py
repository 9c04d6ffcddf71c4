"""Sentences to word-piece tokens, by the tokenizer that comes with a checkpoint."""

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


def tokenise(checkpoint: Checkpoint, config: dict[str, Any], sentences: np.ndarray, max_length: int) -> Tokens:
    """Tokens of all sentences, [CLS] and [SEP] included, cut at `max_length`; T is the longest of them.

    Reads tokenizer.json, else vocab.txt. Raises UserError where the tokens do not fit the checkpoint's `config`.
    """
    if max_length > config["max_position_embeddings"]:
        raise UserError(
            f"config.data.max_length={max_length} is more than the {config['max_position_embeddings']} tokens of "
            f"checkpoint {checkpoint.name}: lower it"
        )
    rows = _encode(checkpoint, sentences.tolist(), max_length)
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    ids[np.arange(ids.shape[1])[None] < lengths[:, None]] = np.concatenate(rows)
    if ids.max() >= config["vocab_size"]:
        raise UserError(
            f"checkpoint {checkpoint.name}: its tokenizer gives token {ids.max()}, but its config.json has only "
            f"{config['vocab_size']}"
        )
    return Tokens(ids, lengths)


def _encode(checkpoint: Checkpoint, sentences: list[str], max_length: int) -> list[list[int]]:
    from tokenizers import Tokenizer
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    within = _CHARACTERS * max_length
    path = checkpoint.file("tokenizer.json") or checkpoint.required("vocab.txt")
    lowercase = True
    if path.name == "vocab.txt" and checkpoint.file("tokenizer_config.json"):
        lowercase = checkpoint.json("tokenizer_config.json").get("do_lower_case") is not False
    try:
        if path.name == "vocab.txt":
            tokenizer = BertWordPieceTokenizer(str(path), lowercase=lowercase)
        else:
            tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        if tokenizer.num_special_tokens_to_add(False) != 2:
            raise ValueError("it does not add [CLS] and [SEP]")
        tokens = [encoding.ids for encoding in tokenizer.encode_batch([text[:within] for text in sentences])]
        for row, text in enumerate(sentences):
            if len(text) > within and len(tokens[row]) < max_length:  # a long word, or many spaces
                tokens[row] = tokenizer.encode(text).ids
        return tokens
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path} is no tokenizer of BERT's: {error}") from error
