"""Lengths of texts: the one that `auto` means, the note on cuts, and estimates without a tokenizer."""

import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.data.lengths import Cuts, estimated_tokens, text_length
from rgjax.training.inputs import network_inputs


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3], 64),
        ([64] * 50, 64),
        ([65] * 50, 128),
        ([30] * 99 + [400], 64),  # 99 of 100 are covered
        ([30] * 98 + [400] * 2, 448),
        ([30] * 197 + [400] * 3, 448),
        ([2000] * 9, 512),
    ],
)
def test_auto_is_the_smallest_multiple_of_64_that_covers_99_percent(lengths, expected):
    lengths = np.random.default_rng(0).permutation(np.array(lengths, np.int32))
    length = text_length("auto", lengths, 512)
    assert length == expected
    covered = [multiple for multiple in range(64, 513, 64) if (lengths <= multiple).mean() >= 0.99]
    assert length == min(covered, default=512)


def test_auto_is_at_most_what_the_network_reads():
    assert text_length("auto", np.array([300]), 128) == 128
    assert text_length("auto", np.array([9]), 20) == 20


def test_a_number_is_kept():
    assert text_length(100, np.array([300]), 512) == 100


def notes_on(max_length, **lengths):
    cuts = Cuts(max_length)
    for name, length in lengths.items():
        cuts.add([name], np.array([length], np.int32))
    return cuts.notes()


def test_the_note_has_the_cut_texts_and_the_unread_share():
    [note] = notes_on(60, a=100, b=20, c=300)
    assert (note.kind, note.count, note.names) == ("cut_text", 2, ("a", "c"))
    assert str(note).startswith("2 texts cut at 60 tokens, which leaves 67 % of all tokens unread: a, c; --config.data")
    assert notes_on(60, a=60) == notes_on(60) == ()
    [tiny] = notes_on(999, a=1000, b=21)
    assert "leaves 0.098 % of all tokens unread" in str(tiny)
    [huge] = notes_on(3, a=1000)
    assert "leaves 99.7 % of all tokens unread" in str(huge)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 2), ("profit rose.", 5), ("extraordinarily", 5), ("利润上升。", 7), ("이익", 4)]
)
def test_tokens_are_estimated_by_letters_ideographs_and_punctuation(text, tokens):
    np.testing.assert_array_equal(estimated_tokens([text]), [tokens])


def test_auto_under_a_head_follows_estimated_tokens(tmp_path):
    """The tokenizer is the encoder's, and is not opened if its features are cached."""
    rows = [f"{'word ' * (100 if i % 2 else 3)}{i},{'ab'[i % 3 // 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    settings = {"data.name": "text", "data.manual_dir": str(tmp_path / "t.csv"), "model.name": "mlp"}
    for max_length, cut_at, cut in (("auto", 128, 0), (64, 64, 30)):
        config = method_config("ce", settings | {"data.max_length": max_length})
        resolved, dataset, inputs = network_inputs(config, load_data(config.data), None)
        assert resolved.data.max_length == cut_at and inputs is dataset.inputs
        assert [note.count for note in dataset.notes if note.kind == "cut_text"] == ([cut] if cut else [])
