import numpy as np
import pytest

from rgjax.data import load_data, text
from rgjax.data.custom import normal_form
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import tokenize
from rgjax.models.transformer import bert_config


@pytest.fixture
def long_table(tmp_path):
    """Sentences of two classes, one of them of ten megabytes, and two that are equal."""
    long = "profit rose . " * 720_000
    rows = [
        (long, "up"),
        *((f"profit rose w{i}", "up") for i in range(20)),
        *((f"w{i} fell", "down") for i in range(10)),
    ]
    rows.append(("PROFIT  rose w3", "up"))
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"{sentence},{label}\n" for sentence, label in rows))
    return tmp_path / "own.csv", rows


def test_sentences_of_any_length_take_the_room_of_their_own(long_table):
    path, rows = long_table
    source = text.load(manual_dir=str(path))
    assert source.inputs.tolist() == [sentence for sentence, _ in rows]
    assert source.inputs.nbytes < 100 * len(rows)  # of the array itself; the usual one would have 1.3 GB
    assert source.inputs[[0, 5]].tolist() == [rows[0][0], rows[5][0]]


def test_a_long_sentence_has_the_tokens_of_its_beginning(long_table, tiny_bert):
    checkpoint = Checkpoint(str(tiny_bert), ways_out="")
    sentences = ["profit rose . " * 10, "profit rose . " * 720_000, "x" * 5000 + " rose .", " " * 5000 + "rose"]
    config = bert_config(checkpoint)
    ids, lengths = tokenize(checkpoint, config, np.array(sentences, np.dtypes.StringDType()), 12)
    assert lengths.tolist() == [12, 12, 5, 3]
    np.testing.assert_array_equal(ids[0], ids[1])
    words = (tiny_bert / "vocab.txt").read_text().split("\n")
    assert [words[i] for i in ids[2, :5]] == ["[CLS]", "[UNK]", "rose", ".", "[SEP]"]


def test_equal_sentences_stay_together(tmp_path):
    lines = [f"{'Profit' if i % 2 else 'PROFIT '} rose w{i % 15},up" for i in range(30)]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *lines, *(f"w{i} fell,down" for i in range(10))]))
    options = {"test_fraction": 0.2, "val_fraction": 0.2, "manual_dir": str(tmp_path / "own.csv"), "positive": ""}
    for seed in range(5):
        data = load_data("text", split_kind="auto", seed=seed, **options)
        parts = [
            {normal_form(sentence) for sentence in data.inputs[rows]} for rows in (data.train, data.val, data.test)
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 25
    assert data.kind == "sentences"
    assert data.name == "own"
    outline = load_data("text", split_kind="auto", seed=4, outline=True, **options)
    assert outline.kind == "sentences"
    np.testing.assert_array_equal(outline.test, data.test)
