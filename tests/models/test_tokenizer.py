import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from tokenizers.models import WordLevel

from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import tokenize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "profit", "fell", "ros", "##e", "."]
CONFIG = {"max_position_embeddings": 16, "vocab_size": len(WORDS)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def tokens(folder: Path, *sentences, max_length=16, config=CONFIG):
    return tokenize(Checkpoint(str(folder), ways_out="another"), config, np.array(sentences), max_length)


def test_a_vocabulary_is_enough(folder):
    found = tokens(folder, "Profit rose.", "fell")
    np.testing.assert_array_equal(found.ids, [[2, 5, 7, 8, 9, 3], [2, 6, 3, 0, 0, 0]])
    np.testing.assert_array_equal(found.lengths, [6, 3])
    assert found.ids.dtype == found.lengths.dtype == np.int32


def test_case_is_kept_where_the_checkpoint_says_so(folder):
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    np.testing.assert_array_equal(tokens(folder, "Profit fell").ids, [[2, 1, 6, 3]])


def test_tokenizer_json_is_read_and_its_own_padding_and_cut_are_not_used(folder):
    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    np.testing.assert_array_equal(tokens(folder, "profit fell.").ids, [[2, 5, 6, 9, 3]])


def test_a_tokenizer_without_its_marks_is_refused(folder):
    tokenizer = Tokenizer(WordLevel({"profit": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"it does not add \[CLS\] and \[SEP\]"):
        tokens(folder, "profit")


def test_long_sentences_are_cut_and_keep_their_end_mark(folder):
    np.testing.assert_array_equal(tokens(folder, "profit fell fell fell", max_length=4).ids, [[2, 5, 6, 3]])


def test_what_does_not_fit_the_checkpoint_is_refused(folder):
    with pytest.raises(UserError, match=r"config\.data\.max_length=20 is more than the 16 tokens"):
        tokens(folder, "profit", max_length=20)
    with pytest.raises(UserError, match=r"gives token 9, but its config\.json has only 8"):
        tokens(folder, "profit fell .", config=CONFIG | {"vocab_size": 8})
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer"):
        tokens(folder, "profit")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"has no vocab\.txt"):
        tokens(folder, "profit")


def test_a_token_beyond_32_bits_is_refused(folder):
    tokenizer = json.loads(BertWordPieceTokenizer(str(folder / "vocab.txt")).to_str())
    tokenizer["model"]["vocab"]["profit"] = 2**32 - 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"gives token 4294967295, but its config\.json has only 10"):
        tokens(folder, "profit")
