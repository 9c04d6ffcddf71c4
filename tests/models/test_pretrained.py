"""Whole checkpoints in all formats, and malformed ones: each is an error of one line that names file and tensor."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rgjax.errors import UserError
from rgjax.models.backbone import Options
from rgjax.models.bert import Bert, bert_config
from rgjax.models.pretrained import Checkpoint
from rgjax.models.vit_families import CLIP

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def load(folder, network=Bert, config=bert_config):
    checkpoint = Checkpoint(str(folder), ways_out="a local folder")
    tensors = checkpoint.tensors()
    network(tensors, config(checkpoint))
    return tensors


def clip_vision(tensors, config):
    return CLIP.build(tensors, config, Options())


@pytest.fixture
def copy(tmp_path):
    """A BERT checkpoint that a test may change."""
    folder = tmp_path / "bert"
    shutil.copytree(CHECKPOINTS / "bert", folder)
    return folder


def change(folder, **changes):
    """Replace tensors of a checkpoint (None: remove)."""
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name)
        if value is not None:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors")


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_unused_tensors_are_listed():
    assert load(CHECKPOINTS / "bert").weights.unused() == ["pooler.dense.bias", "pooler.dense.weight"]
    unused = load(CHECKPOINTS / "bert_mlm").weights.unused()
    assert unused
    assert all(name.startswith("cls.predictions.") for name in unused)
    unused = load(CHECKPOINTS / "clip", clip_vision, CLIP.settings).weights.unused()
    assert "logit_scale" in unused
    assert not any(name.startswith("vision_model.") for name in unused)


def test_every_format_gives_equal_tensors():
    expected = Checkpoint(str(CHECKPOINTS / "bert"), ways_out="").tensors()
    names = "embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.key.weight"
    for form in ("bert_mlm", "bert_legacy", "bert_sharded", "bert_flax"):
        tensors = Checkpoint(str(CHECKPOINTS / form), ways_out="").tensors().below(names[0])
        for name, shape in zip(names, ((60, 24), (24, 24)), strict=True):
            np.testing.assert_array_equal(tensors.take(name, shape), expected.take(name, shape))


def test_fingerprint_changes_with_the_weights(copy):
    def fingerprint():
        return Checkpoint(str(copy), ways_out="").fingerprint()

    before = fingerprint()
    assert before == Checkpoint(str(CHECKPOINTS / "bert"), ways_out="").fingerprint()
    change(copy, pooler__dense__bias=np.ones(24, np.float32))
    assert fingerprint() != before


def test_fingerprint_changes_with_the_named_files(copy):
    def fingerprint():
        return Checkpoint(str(copy), ways_out="").fingerprint("vocab.txt")

    before = fingerprint()
    (copy / "vocab.txt").write_text("a")
    first = fingerprint()
    (copy / "vocab.txt").write_text("b")
    assert len({before, first, fingerprint()}) == 3


def test_half_precision_is_read_as_float32(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, copy / "model.safetensors")
    words = load(copy).take("embeddings.word_embeddings.weight", (60, 24))
    assert words.dtype == np.float32
    np.testing.assert_allclose(words, tensors["embeddings.word_embeddings.weight"], atol=1e-3)


def says(folder, network=Bert, config=bert_config):
    with pytest.raises(UserError) as error:
        load(folder, network, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_or_misshapen_tensor_is_named(copy):
    change(copy, encoder__layer__1__output__dense__bias=np.zeros(23, np.float32))
    assert "tensor 'encoder.layer.1.output.dense.bias' has shape (23,), but config.json says (24,)" in says(copy)
    change(copy, encoder__layer__1__output__dense__bias=None)
    assert "tensor 'encoder.layer.1.output.dense.bias' is missing" in says(copy)


def test_folder_without_weights_is_told_the_formats(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    text = says(copy)
    assert "has no weights (model.safetensors" in text
    assert "give a local folder" in text
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        bert_config(Checkpoint(str(copy), ways_out=""))


def test_other_architecture_is_refused(copy):
    assert "its architecture is 'bert'; needed: CLIP" in says(copy, clip_vision, CLIP.settings)
    assert "its architecture is 'clip'; needed: BERT" in says(CHECKPOINTS / "clip")
    configure(copy, model_type="roberta")
    assert "its architecture is 'roberta'" in says(copy)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hidden_act": "swish"}, "unknown hidden_act"),
        ({"num_attention_heads": 5}, "config.json has hidden_size not a multiple of num_attention_heads"),
        ({"num_hidden_layers": "three"}, "config.json has num_hidden_layers='three'"),
        ({"intermediate_size": -40}, "config.json has intermediate_size=-40"),
        ({"vocab_size": True}, "config.json has vocab_size=True"),
        ({"layer_norm_eps": float("inf")}, "config.json has layer_norm_eps=inf"),
        ({"num_hidden_layers": 4}, "there is no 'encoder.layer.3', but config.json counts 4 layers"),
        ({"num_hidden_layers": 10**9}, "config.json has num_hidden_layers=1000000000"),
    ],
    ids=str,
)
def test_impossible_config_is_refused(copy, changes, expected):
    configure(copy, **changes)
    assert expected in says(copy)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.ones(24, np.int8), "has dtype int8"), (np.full(24, np.nan, np.float32), "has values that are not finite")],
    ids=["int8", "nan"],
)
def test_tensor_of_integers_or_nan_is_refused(value, expected, copy):
    change(copy, embeddings__LayerNorm__bias=value)
    assert f"tensor 'embeddings.LayerNorm.bias' {expected}" in says(copy)


@pytest.mark.parametrize("keep", [0, 200, 30_000])
def test_truncated_file_is_named(copy, keep):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path} is corrupted (" in says(copy)


def test_corrupted_files_are_named(copy, tmp_path):
    (copy / "config.json").write_text("{")
    assert "is not JSON" in says(copy)
    folder = tmp_path / "flax"
    shutil.copytree(CHECKPOINTS / "bert_flax", folder)
    path = folder / "flax_model.msgpack"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path} is corrupted (" in says(folder)
    folder = tmp_path / "sharded"
    shutil.copytree(CHECKPOINTS / "bert_sharded", folder)
    index = folder / "model.safetensors.index.json"
    whole = index.read_text()
    for text in (whole.replace("model-00001", "../model-00001"), '{"weight_map": {}}'):
        index.write_text(text)
        assert "has no weight_map of file names" in says(folder)


def test_unreachable_hub_is_one_line_with_both_ways_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = Checkpoint("someone/some-model", ways_out="a local folder or another encoder")
    with pytest.raises(
        UserError, match=r"'someone/some-model' is not a local folder.*a local folder or another encoder"
    ):
        checkpoint.json("config.json")
    with pytest.raises(UserError, match="there is no folder /nowhere/at/all"):
        Checkpoint("/nowhere/at/all", ways_out="")
