import numpy as np
import pytest

from rgjax.data import load_data, text
from rgjax.data.custom import normal_form
from rgjax.models.bert import bert_config
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import tokenize
from tests.support.data import data_config


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
    (tmp_path / "reviews.csv").write_text("text,label\n" + "".join(f"{sentence},{label}\n" for sentence, label in rows))
    return tmp_path / "reviews.csv", rows


def test_a_long_sentence_does_not_widen_the_others(long_table):
    path, rows = long_table
    source = text.load(data_config("text", manual_dir=str(path)))
    assert source.inputs.tolist() == [sentence for sentence, _ in rows]
    assert source.inputs.nbytes < 100 * len(rows)  # without the text itself; a fixed-width array takes 1.3 GB
    assert source.inputs[[0, 5]].tolist() == [rows[0][0], rows[5][0]]


@pytest.mark.long
def test_a_long_sentence_is_truncated_before_tokenization(long_table, tiny_bert):
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
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines, *(f"w{i} fell,down" for i in range(10))]))
    for seed in range(5):
        config = data_config("text", manual_dir=str(tmp_path / "reviews.csv"), split="auto", seed=seed)
        data = load_data(config)
        sentences = [{normal_form(sentence) for sentence in data.inputs[indices]} for indices in data.splits.values()]
        assert sum(map(len, sentences)) == len(set.union(*sentences)) == 25
    assert data.kind == "sentences"
    assert data.name == "reviews"
    spec = load_data(config, spec=True)
    assert spec.kind == "sentences"
    np.testing.assert_array_equal(spec.test, data.test)
