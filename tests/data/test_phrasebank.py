import zipfile

import numpy as np
import pytest

from rgjax.data import load_data
from rgjax.data.phrasebank import load, parse
from rgjax.errors import UserError
from tests.support.data import data_config

LINES = "Profit rose to EUR 5 mn .@positive\r\nSales fell @ 3 % .@negative\r\n\r\nNokia is Finnish .@neutral\r\n"


def write(folder, content, name="Sentences_50Agree.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return str(folder)


def load_from(folder, **changes):
    return load(data_config("phrasebank", manual_dir=str(folder), **changes))


def test_all_line_endings_are_read():
    for ending in ("\n", "\r", "\r\n"):
        assert parse(LINES.replace("\r\n", ending).encode(), "file")[1] == ["positive", "negative", "neutral"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_lines_are_sentence_and_label(encoding, tmp_path):
    folder = write(tmp_path, (LINES + "Pörssi nousi .@positive").encode(encoding))
    source = load_from(folder)
    assert source.inputs.tolist() == [
        "Profit rose to EUR 5 mn .", "Sales fell @ 3 % .", "Nokia is Finnish .", "Pörssi nousi .",
    ]  # fmt: skip
    assert source.class_names == ("neutral", "positive", "negative")
    assert source.labels.tolist() == [1, 2, 0, 1]


def test_the_archive_is_read_without_unpacking(tmp_path):
    with zipfile.ZipFile(tmp_path / "FinancialPhraseBank-v1.0.zip", "w") as archive:
        archive.writestr("FinancialPhraseBank-v1.0/Sentences_AllAgree.txt", LINES)
    assert len(load_from(tmp_path, agreement="allagree").labels) == 3
    with pytest.raises(UserError, match=r"Sentences_50Agree\.txt"):
        load_from(tmp_path, agreement="50agree")
    (tmp_path / "FinancialPhraseBank-v1.0.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        load_from(tmp_path, agreement="allagree")


def test_too_large_a_file_in_the_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "FinancialPhraseBank-v1.0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("FinancialPhraseBank-v1.0/Sentences_50Agree.txt", b"\0" * 20_000_000)
    with pytest.raises(UserError, match="unpacks to 20,000,000 bytes"):
        load_from(tmp_path)


def test_the_unpacked_archive_is_read(tmp_path):
    write(tmp_path / "FinancialPhraseBank-v1.0", LINES.encode(), "Sentences_75Agree.txt")
    assert len(load_from(tmp_path, agreement="75agree").labels) == 3


def test_two_different_files_are_both_named(tmp_path):
    folders = tmp_path, tmp_path / "FinancialPhraseBank-v1.0"
    for folder in folders:
        write(folder, LINES.encode())
    assert len(load_from(tmp_path).labels) == 3
    write(folders[1], b"Sales fell .@negative\n")
    with pytest.raises(UserError) as error:
        load_from(tmp_path)
    assert all(str(folder / "Sentences_50Agree.txt") in str(error.value) for folder in folders)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Sales fell .@negative\n   @positive\n", "file, line 2: the sentence is empty"),
        (b"Sales fell .@negative\n\nSales rose .@postive\n", "file, line 3: 'postive' (did you mean 'positive'?)"),
        (b"Sales fell .\n", "file, line 1: no '@' before a label"),
        (LINES.encode("utf-16"), "file, line 1: not text in UTF-8 or Latin-1"),
        (b"a" * 20_000 + b"@neutral", "file, line 1: the sentence has 20000 characters, more than 10000"),
        (b"\n \n", "file: no sentences"),
        (b"P\xf6rssi .@neutral\nP\xc3\xb6rssi .@neutral\n", "file, line 2: not text in Latin-1 as other lines are"),
        (b"Fell .@negative\n\x93Rose\x94 .@positive\n", "file, line 2: not text in Latin-1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_lines_are_named(content, says):
    with pytest.raises(UserError) as error:
        parse(content, "file")
    assert says in str(error.value)


def test_a_missing_file_is_named_with_the_download(tmp_path):
    with pytest.raises(UserError, match=r"neither Sentences_50Agree\.txt nor .*--config\.data\.manual_dir=FOLDER"):
        load_from(tmp_path)


def test_equal_sentences_stay_in_one_split(tmp_path):
    text = "".join(f"Sentence number {i % 40} .@{('neutral', 'positive', 'negative')[i % 40 % 3]}\n" for i in range(80))
    dataset = load_data(data_config("phrasebank", manual_dir=write(tmp_path, text.encode()), split="grouped"))
    assert dataset.kind == "sentences"
    sentences = [set(dataset.inputs[indices]) for indices in dataset.splits.values()]
    assert sum(map(len, sentences)) == len(set.union(*sentences)) == 40


def test_the_real_sentences(shared_data):
    source = load_from(shared_data / "financial_phrasebank")
    assert np.bincount(source.labels).tolist() == [2879, 1363, 604]
    assert len(np.unique(source.group_ids)) == 4838
