"""The tokenizer of a checkpoint: which files it reads, how it cuts, and what it refuses."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from tokenizers.models import WordLevel

from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import WordPieces, tokenize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "profit", "fell", "ros", "##e", "."]
CONFIG = {"max_position_embeddings": 16, "vocab_size": len(WORDS)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def tokens(folder: Path, *sentences, max_length=16, config=CONFIG):
    return tokenize(Checkpoint(str(folder), ways_out="another"), config, np.array(sentences), max_length)


def write_tokenizer(folder: Path, **options) -> BertWordPieceTokenizer:
    """A tokenizer.json in place of the folder's vocab.txt."""
    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), **options)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    return tokenizer


def test_vocabulary_alone_is_enough(folder):
    result = tokens(folder, "Profit rose.", "fell")
    np.testing.assert_array_equal(result.ids, [[2, 5, 7, 8, 9, 3], [2, 6, 3, 0, 0, 0]])
    np.testing.assert_array_equal(result.lengths, [6, 3])
    assert result.ids.dtype == result.lengths.dtype == np.int32


def test_tokenizer_config_keeps_case(folder):
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    np.testing.assert_array_equal(tokens(folder, "Profit fell").ids, [[2, 1, 6, 3]])


def test_tokenizer_json_keeps_case_without_tokenizer_config(folder):
    write_tokenizer(folder, lowercase=False)
    np.testing.assert_array_equal(tokens(folder, "Profit fell").ids, [[2, 1, 6, 3]])


def test_padding_and_truncation_of_tokenizer_json_are_ignored(folder):
    tokenizer = write_tokenizer(folder)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    np.testing.assert_array_equal(tokens(folder, "profit fell.").ids, [[2, 5, 6, 9, 3]])


@pytest.mark.parametrize("by", ["vocab.txt", "tokenizer.json"])
def test_saved_tokenizer_cuts_and_gives_the_same_tokens(by, folder, tmp_path):
    if by == "tokenizer.json":
        write_tokenizer(folder)
    sentences = ["Profit rose.", "fell fell fell fell"]
    pieces = WordPieces(Checkpoint(str(folder), ways_out=""), CONFIG, 5)
    pieces.save(tmp_path / "saved.json")
    ids = [encoding.ids for encoding in Tokenizer.from_file(str(tmp_path / "saved.json")).encode_batch(sentences)]
    np.testing.assert_array_equal(ids, pieces(np.array(sentences)).ids)


def test_long_sentence_is_cut_and_ends_in_sep(folder):
    np.testing.assert_array_equal(tokens(folder, "profit fell fell fell", max_length=4).ids, [[2, 5, 6, 3]])


def test_ten_megabytes_take_less_than_ten_seconds(folder):
    began = time.process_time()
    np.testing.assert_array_equal(tokens(folder, "profit " * 1_500_000).ids, [[2, *[5] * 14, 3]])
    assert time.process_time() - began < 5
    # Where the first characters do not fill the limit, the rest is read all the same.
    np.testing.assert_array_equal(tokens(folder, " " * 5000 + "profit fell").ids, [[2, 5, 6, 3]])


def test_tokenizer_without_cls_and_sep_is_refused(folder):
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nprofit\n")
    with pytest.raises(UserError, match=r"it does not add \[CLS\] and \[SEP\]"):
        tokens(folder, "profit")
    tokenizer = Tokenizer(WordLevel({"profit": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"it does not add \[CLS\] and \[SEP\]"):
        tokens(folder, "profit")


def test_tokenizer_that_does_not_fit_the_network_is_refused(folder):
    with pytest.raises(UserError, match=r"config\.data\.max_length=20: checkpoint .* reads at most 16 tokens; lower"):
        tokens(folder, "profit", max_length=20)
    with pytest.raises(UserError, match=r"gives token 9, but config\.json has vocab_size=8"):
        tokens(folder, "profit fell .", config=CONFIG | {"vocab_size": 8})


def test_token_beyond_32_bits_is_refused(folder):
    tokenizer = json.loads(BertWordPieceTokenizer(str(folder / "vocab.txt")).to_str())
    tokenizer["model"]["vocab"]["profit"] = 2**32 - 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"gives token 4294967295, but config\.json has vocab_size=10"):
        tokens(folder, "profit")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[" * 100_000),
        ("vocab.txt", b""),
        ("vocab.txt", b"\xff\xfe"),
        ("tokenizer_config.json", b"["),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"0": 1}}'),
    ],
    ids=str,
)
def test_malformed_file_is_one_line(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"(tokenizer\.json|vocab\.txt) is not a tokenizer of BERT: .+") as error:
        tokens(folder, "profit")
    assert str(error.value).isprintable()


def test_checkpoint_without_vocabulary_is_refused(folder):
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"has no vocab\.txt"):
        tokens(folder, "profit")


def test_the_number_of_tokens_without_the_cut_is_counted(folder):
    sentences = ["profit", "profit fell " * 20, "", "fell . " * 3]
    pieces = WordPieces(Checkpoint(str(folder), ways_out=""), CONFIG, 5)
    read, uncut = pieces.read(np.array(sentences))
    np.testing.assert_array_equal(read.lengths, [3, 5, 2, 5])
    np.testing.assert_array_equal(uncut, [3, 42, 2, 8])


def test_the_tokens_of_a_very_long_text_are_estimated(folder):
    pieces = WordPieces(Checkpoint(str(folder), ways_out=""), CONFIG, 5)
    _, uncut = pieces.read(np.array(["profit fell " * 10_000, " " * 5000 + "profit fell"]))
    assert abs(uncut[0] - 20_000) < 1000
    assert uncut[1] == 4


@pytest.mark.parametrize("max_length", [3, 5, 8, 16])
def test_tokens_cut_later_are_those_cut_at_once(max_length, folder):
    words = np.random.default_rng(0).choice([*WORDS[5:8], "."], (50, 14))
    sentences = [" ".join(row[: 1 + number % 14]) for number, row in enumerate(words)]
    longest = WordPieces(Checkpoint(str(folder), ways_out=""), CONFIG, None)(np.array(sentences))
    at_once = tokens(folder, *sentences, max_length=max_length)
    np.testing.assert_array_equal(longest.cut(max_length).ids, at_once.ids)
    np.testing.assert_array_equal(longest.cut(max_length).lengths, at_once.lengths)
    assert longest.cut(max_length).lengths.dtype == np.int32
