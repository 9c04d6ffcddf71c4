"""Sentences as the network reads them: where they are cut, what is noted, and what a run records of it."""

import json
import shutil

import numpy as np
import pytest

from rgjax import artifacts
from rgjax.data import load_data
from rgjax.errors import UserError
from rgjax.models.tokenizer import Tokens
from rgjax.predict.run import load_run
from rgjax.storage.files import write_json
from rgjax.training.inputs import network_inputs
from tests.support.downloads import write_tiny_bert
from tests.support.finished import DIGITS, config_of, finish_untrained


def text_settings(folder, words, *, positions=256, **changes):
    """Settings of a run on 40 texts; `words[i % len(words)]` is the number of words of the i-th."""
    write_tiny_bert(folder / "bert", positions)
    rows = [f"{' '.join(['profit'] * words[i % len(words)])},{'up' if i % 3 else 'down'}" for i in range(40)]
    (folder / "table.csv").write_text("\n".join(["text,label", *rows]))
    return {
        "data.name": "text", "data.manual_dir": str(folder / "table.csv"), "data.split": "stratified",
        "data.max_length": "auto", "data.positive": "", "model.name": "bert", "model.checkpoint": str(folder / "bert"),
        "train.optimizer": "adamw", "train.batch_size": 8,
    } | changes  # fmt: skip


def read(settings, recorded=None):
    config = config_of("ce", **settings)
    return network_inputs(config, load_data(config.data), recorded)


@pytest.mark.parametrize(
    ("words", "positions", "expected"),
    [([9], 256, 64), ([62], 256, 64), ([63], 256, 128), ([9, 9, 9, 150], 256, 192), ([400], 256, 256), ([9], 20, 20)],
)
def test_auto_covers_the_training_texts_as_far_as_the_network_reads(words, positions, expected, tmp_path):
    settings = text_settings(tmp_path, words, positions=positions)
    config, dataset, tokens = read(settings)
    assert config.data.max_length == expected
    longest = min(max(words) + 2, expected)
    assert tokens.ids.shape == (40, longest) and tokens.lengths.max() == longest
    assert [note.kind for note in dataset.notes] == (["cut_text"] if max(words) + 2 > expected else [])
    at_once = read(settings | {"data.max_length": expected})[2]
    np.testing.assert_array_equal(tokens.ids, at_once.ids)


def test_cut_texts_are_noted_by_their_ids_with_the_unread_share(tmp_path):
    _, dataset, _ = read(text_settings(tmp_path, [98, 8], **{"data.max_length": 60}))
    [note] = dataset.notes
    assert (note.count, note.names) == (20, ("1", "3", "5", "7", "9"))
    assert "cut at 60 tokens, which leaves 36 % of all tokens unread" in str(note)  # (100 - 60) / (100 + 10)
    assert f"note: {note}" in dataset.summary


def test_images_are_left_alone():
    config = config_of("ce", **DIGITS)
    dataset = load_data(config.data)
    same_config, same_dataset, inputs = network_inputs(config, dataset, None)
    assert (same_config, same_dataset) == (config, dataset) and not isinstance(inputs, Tokens)


def test_a_run_records_the_number_and_reads_by_it_without_its_data(tmp_path):
    settings = text_settings(tmp_path, [9, 9, 9, 150])
    run = finish_untrained(tmp_path / "run", **settings)
    recorded = {name: json.loads((run / f"{name}.json").read_text()) for name in ("config", "provenance")}
    assert recorded["config"]["data"]["max_length"] == "auto"
    assert recorded["provenance"]["max_length"] == artifacts.recorded_choices(run)["max_length"] == 192
    artifacts.refuse_another(run, config_of("ce", **settings))
    with pytest.raises(UserError, match=r"holds a run with config\.data\.max_length='auto', not 64; use another"):
        artifacts.refuse_another(run, config_of("ce", **settings | {"data.max_length": 64}))
    (tmp_path / "table.csv").unlink()
    shutil.rmtree(tmp_path / "bert")
    loaded = load_run(run, flag="--workdir", ways_out="")
    assert loaded.config.data.max_length == loaded.word_pieces.max_length == 192


def test_a_resumed_run_keeps_its_number(tmp_path):
    settings = text_settings(tmp_path, [9, 9, 9, 150])
    assert read(settings, recorded=128)[0].data.max_length == 128
    assert artifacts.recorded_choices(tmp_path) == {}
    write_json(tmp_path / "provenance.json", {"max_length": "many"})
    assert artifacts.recorded_choices(tmp_path) == {}
