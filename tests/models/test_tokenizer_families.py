"""Tokenizers of all families against transformers' own, on text that is hard to split."""

import json

import numpy as np
import pytest
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import WordPieces

TEXTS = [
    "the profit rose in the third quarter, sales fell and the loss widened",
    "Café déjà-vu naïve Ångström",
    "emoji 😀👩‍👩‍👧‍👦 flags 🇩🇪",
    "漢字かな交じり文 中文",
    "x" * 300 + " tail",
    "",
    "   ",
    "\t\n",
    "don't stop U.S.A. 3.14%",
    "<s> [CLS] </s> <mask> text",
    " leading and trailing ",
    "ﬁ ligature ①Ⅷ",
    "\u200bzero\u00a0width\ufffd",
    "İstanbul STRASSE ß",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
]
MARKS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_pairs(marks):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def word_pieces(marks):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=marks, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def vocabulary(tokenizer, family, folder):
    """The files of a vocabulary without tokenizer.json, and transformers' tokenizer of them."""
    tokenizer.model.save(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return hf.AutoTokenizer.from_pretrained(folder)


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return tokenizer


def xlm_roberta(folder):
    pieces = ["\u2581", *sorted(set("".join(TEXTS)) - {" "}), *(f"\u2581{word}" for word in TEXTS[0].split())]
    scores = [(piece, -2.0 - 0.01 * i) for i, piece in enumerate(pieces)]
    return saved(hf.XLMRobertaTokenizer(vocab=[(mark, 0.0) for mark in MARKS[:4]] + scores), folder)


def modernbert(folder):
    tokenizer = byte_pairs([])
    names = dict.fromkeys(("unk_token", "cls_token", "sep_token", "pad_token"))
    names = {name: f"[{name[:3].upper()}]" for name in names}
    tokenizer.add_special_tokens(list(names.values()))  # after the vocabulary, as ModernBERT has them
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return saved(hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names), folder)


BERT_MARKS, MPNET_MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
MAKERS = {
    "roberta": lambda folder: vocabulary(byte_pairs(MARKS), "roberta", folder),
    "roberta.json": lambda folder: saved(vocabulary(byte_pairs(MARKS), "roberta", folder), folder),
    "mpnet": lambda folder: vocabulary(word_pieces(MPNET_MARKS), "mpnet", folder),
    "distilbert": lambda folder: vocabulary(word_pieces(BERT_MARKS), "distilbert", folder),
    "xlm-roberta": xlm_roberta,
    "modernbert": modernbert,
}


def pieces(folder, family, max_length, **changes):
    config = {"max_position_embeddings": 512, "vocab_size": 500, "model_type": family} | changes
    return WordPieces(Checkpoint(str(folder), ways_out="another"), config, max_length)


@pytest.mark.parametrize("name", MAKERS)
def test_tokens_and_cuts_equal_transformers(name, tmp_path):
    tokenizer, family, texts = MAKERS[name](tmp_path), name.removesuffix(".json"), np.array(TEXTS)
    tokens, uncut = pieces(tmp_path, family, 16).read(texts)
    expected = tokenizer(TEXTS, truncation=True, max_length=16)["input_ids"]
    for row, length, theirs in zip(tokens.ids, tokens.lengths, expected, strict=True):
        assert row[:length].tolist() == theirs
    assert uncut.tolist() == [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    longest = pieces(tmp_path, family, None)(texts)
    np.testing.assert_array_equal(longest.cut(16).ids, tokens.ids)

    with pytest.raises(UserError, match=r"gives token \d+, but config\.json has vocab_size=8"):
        pieces(tmp_path, family, 16, vocab_size=8)(texts)
    lower = pieces(tmp_path, family, 16, lower_case=True)
    np.testing.assert_array_equal(lower(np.array(["PROFIT Rose"])).ids, lower(np.array(["profit rose"])).ids)


def test_a_sentencepiece_model_alone_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"has sentencepiece\.bpe\.model but no tokenizer\.json; .*save_pretrained"):
        pieces(tmp_path, "xlm-roberta", 16)
    with pytest.raises(UserError, match=r"has no merges\.txt"):
        pieces(tmp_path, "roberta", 16)


def test_a_tokenizer_that_adds_no_mark_is_refused(tmp_path):
    byte_pairs(MARKS).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="not a tokenizer of modernBERT: it does not add"):
        pieces(tmp_path, "modernbert", 16)
