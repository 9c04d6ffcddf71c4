"""Pooling of sentences: what folders of sentence-transformers ask for, and what is refused."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.encoders.text import bert, text_encoder
from rgjax.errors import UserError
from rgjax.models.families import open_pretrained
from rgjax.models.packing import pack
from rgjax.models.pooling import POOLINGS, Pooling, sentence_settings
from rgjax.models.pretrained import Checkpoint

TINY = Path(__file__).parent / "text" / "distilbert"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
MODULES = [("models.Transformer", ""), ("models.Pooling", "1_Pooling"), ("models.Normalize", "2_Normalize")]


def write(folder, *, modules=None, pooling=None, reading=None):
    """Settings of sentence-transformers in a folder."""
    if modules is not None:
        entries = [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in modules]
        (folder / "modules.json").write_text(json.dumps(entries))
    if pooling is not None:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if reading is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(reading))
    return Checkpoint(str(folder), ways_out="another")


def switches(*names):
    every = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 16, "include_prompt": True} | {f"pooling_mode_{n}": n in names for n in every}


def test_poolings_are_those_of_sentence_transformers():
    lengths = np.array([3, 1, 5], np.int32)
    packed = pack(jnp.zeros((3, 5), jnp.int32), jnp.asarray(lengths), 12)
    hidden = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32) - 3  # padding, of zeros, would be largest
    expected = {
        "cls": lambda x: x[0],
        "max": lambda x: x.max(axis=0),
        "mean": lambda x: x.mean(axis=0),
        "mean_sqrt_len_tokens": lambda x: x.sum(axis=0) / np.sqrt(len(x)),
        "weightedmean": lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
        "lasttoken": lambda x: x[-1],
    }
    assert expected.keys() == POOLINGS.keys()
    sentences = np.split(hidden[:9], lengths.cumsum()[:-1])
    for name, pool in expected.items():
        pooled = Pooling((name,))(jnp.asarray(hidden), packed)
        np.testing.assert_allclose(pooled, np.stack([pool(x) for x in sentences]), atol=1e-5)
    joined = Pooling(("cls", "max"), unit_length=True)(jnp.asarray(hidden), packed)
    both = np.stack([np.concatenate([x[0], x.max(axis=0)]) for x in sentences])
    np.testing.assert_allclose(joined, both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (Pooling(), None, False)),
        ({"pooling": switches("cls_token")}, (Pooling(("cls",)), None, False)),
        ({"modules": MODULES, "pooling": switches("mean_tokens")}, (Pooling(("mean",), unit_length=True), None, False)),
        (
            {"modules": MODULES[:2], "pooling": switches("mean_sqrt_len_tokens"), "reading": {"max_seq_length": 7}},
            (Pooling(("mean_sqrt_len_tokens",)), 7, False),
        ),
        (
            {"pooling": switches("mean_tokens", "cls_token"), "reading": {"do_lower_case": True}},
            (Pooling(("cls", "mean")), None, True),
        ),
        ({"pooling": switches("weightedmean_tokens")}, (Pooling(("weightedmean",)), None, False)),
        ({"pooling": {"embedding_dimension": 16, "pooling_mode": "lasttoken"}}, (Pooling(("lasttoken",)), None, False)),
        ({"modules": [("base.modules.transformer.Transformer", ""), ("s.modules.pooling.Pooling", "1_Pooling")],
          "pooling": switches("max_tokens")}, (Pooling(("max",)), None, False)),
    ],
)  # fmt: skip
def test_settings_of_a_folder(files, expected, tmp_path):
    settings = sentence_settings(write(tmp_path, **files))
    assert (settings["pooling"], settings["cut"], settings["lower_case"]) == expected


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"modules": [*MODULES[:2], ("models.Dense", "2_Dense")], "pooling": switches("cls_token")}, "asks for Dense"),
        ({"modules": [MODULES[0], ("models.Pooling", "2_Pooling")]}, "asks for Pooling in '2_Pooling'"),
        ({"modules": [("models.Transformer", "0_Transformer")]}, "asks for Transformer in '0_Transformer'"),
        ({"modules": MODULES}, r"has no 1_Pooling/config\.json"),
        ({"pooling": {"pooling_mode_attention": True}}, "unknown pooling in .* 'attention'; valid: cls, max"),
        ({"pooling": switches()}, "unknown pooling in .* 'none'"),
        ({"pooling": {"pooling_mode": [3]}}, "unknown pooling in .* '3'"),
        ({"reading": {"max_seq_length": "long"}}, "has max_seq_length='long'"),
        ({"reading": {"max_seq_length": -1}}, "has max_seq_length=-1"),
    ],
)
def test_what_is_not_read_is_one_line(files, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        sentence_settings(write(tmp_path, **files))


@pytest.mark.parametrize("content", ["[", "{}", "[3]", '[{"type": 3}]', '[{"type": "a.b"}]'])
def test_malformed_modules_are_one_line(content, tmp_path):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UserError, match=r"modules\.json (is no list|asks for)"):
        sentence_settings(Checkpoint(str(tmp_path), ways_out="another"))


def test_features_follow_the_folder(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    sentences = np.array(["a b c d e f", "g h", "a b c d e f", ""])
    plain = text_encoder(open_pretrained(Checkpoint(str(folder), ways_out="")), pooling="auto", max_length=16)
    checkpoint = write(folder, modules=MODULES, pooling=switches("cls_token"), reading={"max_seq_length": 5})
    with pytest.raises(UserError, match="architecture is 'distilbert'; needed: BERT"):
        bert(checkpoint, pooling="auto", max_length=16)

    pretrained = open_pretrained(checkpoint)
    encoder = text_encoder(pretrained, pooling="auto", max_length=16)
    features = encoder.encode(sentences)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(features[0], features[2])
    first = text_encoder(pretrained, pooling="cls", max_length=16)
    assert first.fingerprint == encoder.fingerprint != plain.fingerprint
    cut = text_encoder(pretrained, pooling="auto", max_length=16).encode(np.array(["a b c", "g h", "a b c", ""]))
    np.testing.assert_allclose(features, cut, atol=1e-6)
    assert np.abs(plain.encode(sentences) - features).max() > 0.1
