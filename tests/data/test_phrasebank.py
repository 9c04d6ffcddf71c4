import zipfile

import numpy as np
import pytest

from rgjax.data import load_data as load_dataset
from rgjax.data.phrasebank import load, parse
from rgjax.errors import UserError

LINES = "Profit rose to EUR 5 mn .@positive\r\nSales fell @ 3 % .@negative\r\n\r\nNokia is Finnish .@neutral\r\n"


def write(folder, content, name="Sentences_50Agree.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_lines_may_end_in_any_way(end):
    assert parse(LINES.replace("\r\n", end).encode(), "file")[1] == ["positive", "negative", "neutral"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_lines_are_sentence_and_label(encoding, tmp_path):
    folder = write(tmp_path, (LINES + "Pörssi nousi .@positive").encode(encoding))
    source = load(manual_dir=folder)
    assert source.inputs.tolist() == [
        "Profit rose to EUR 5 mn .", "Sales fell @ 3 % .", "Nokia is Finnish .", "Pörssi nousi .",
    ]  # fmt: skip
    assert source.class_names == ("neutral", "positive", "negative")
    assert source.labels.tolist() == [1, 2, 0, 1]


def test_the_archive_is_read_as_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "FinancialPhraseBank-v1.0.zip", "w") as archive:
        archive.writestr("FinancialPhraseBank-v1.0/Sentences_AllAgree.txt", LINES)
    assert len(load(agreement="allagree", manual_dir=str(tmp_path)).labels) == 3
    with pytest.raises(UserError, match=r"Sentences_50Agree\.txt"):
        load(agreement="50agree", manual_dir=str(tmp_path))
    (tmp_path / "FinancialPhraseBank-v1.0.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        load(agreement="allagree", manual_dir=str(tmp_path))


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "FinancialPhraseBank-v1.0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("FinancialPhraseBank-v1.0/Sentences_50Agree.txt", b"\0" * 20_000_000)
    with pytest.raises(UserError, match="unpacks to 20000000 bytes"):
        load(manual_dir=str(tmp_path))


def test_the_unpacked_archive_is_found(tmp_path):
    write(tmp_path / "FinancialPhraseBank-v1.0", LINES.encode(), "Sentences_75Agree.txt")
    assert len(load(agreement="75agree", manual_dir=str(tmp_path)).labels) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Sales fell .@negative\n   @positive\n", "file, row 2: the sentence is empty"),
        (b"Sales fell .@negative\n\nSales rose .@postive\n", "file, row 3: 'postive' (did you mean 'positive'?)"),
        (b"Sales fell .\n", "file, row 1: there is no '@' before a label"),
        (LINES.encode("utf-16"), "file, row 1: this is no text in UTF-8 or Latin-1"),
        (b"a" * 20_000 + b"@neutral", "file, row 1: the sentence has 20000 characters, more than 10000"),
        (b"\n \n", "file holds no sentences"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_rows_are_named(content, says):
    with pytest.raises(UserError) as error:
        parse(content, "file")
    assert says in str(error.value)


def test_a_missing_download_names_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r"neither Sentences_50Agree\.txt nor .*--config\.data\.manual_dir=FOLDER"):
        load(manual_dir=str(tmp_path))


def test_equal_sentences_stay_in_one_part(tmp_path):
    text = "".join(f"Sentence number {i % 40} .@{('neutral', 'positive', 'negative')[i % 40 % 3]}\n" for i in range(80))
    dataset = load_dataset(
        "phrasebank", manual_dir=write(tmp_path, text.encode()), agreement="50agree", split_kind="grouped",
        positive="", seed=0, test_fraction=0.2, val_fraction=0.2,
    )  # fmt: skip
    assert dataset.kind == "sentences"
    parts = [set(dataset.inputs[rows]) for rows in (dataset.train, dataset.val, dataset.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_the_real_sentences(shared_data):
    source = load(manual_dir=str(shared_data / "financial_phrasebank"))
    assert np.bincount(source.labels).tolist() == [2879, 1363, 604]
    assert len(np.unique(source.groups)) == 4838
