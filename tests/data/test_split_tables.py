"""Several tables of one folder: the official split, or shards of one table."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from rgjax.data.custom import list_images, list_sentences
from rgjax.data.inspect import main
from rgjax.data.places import locate, split_of
from rgjax.errors import UserError


def write(path, start, count=4, more=""):
    """A table of `count` examples of two classes in the format of the suffix."""
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(start, start + count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(dict(zip(("text", "label"), zip(*rows, strict=True), strict=True))), path)
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows))
    elif path.suffix == ".json":
        path.write_text(
            "[\n" + ",\n".join(f'{{"text": "{text}",\n "label": "{label}"}}' for text, label in rows) + "]\n"
        )
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        path.write_text("".join(separator.join(row) + "\n" for row in [("text", "label"), *rows]) + more)


def refused(folder, listing=list_sentences):
    with pytest.raises(UserError) as error:
        listing(str(folder))
    return str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        {"train.csv": "train", "test.csv": "test"},
        {"train.jsonl": "train", "validation.tsv": "val", "test.parquet": "test"},
        {"reviews_Training.csv": "train", "reviews-dev.csv": "val", "reviews test.ndjson": "test"},
        {"train.json": "train", "test.json": "test"},
        {"train/a.csv": "train", "test/b.tsv": "test"},
        {"train/0000.parquet": "train", "train/0001.parquet": "train", "test/0000.parquet": "test"},
        {
            "data/train-00000-of-00002.parquet": "train", "data/train-00001-of-00002.parquet": "train",
            "data/test-00000-of-00001.parquet": "test",
        },
    ],
    ids=lambda names: next(iter(names)),
)  # fmt: skip
def test_tables_named_after_splits_are_the_official_split(names, tmp_path, capsys):
    (tmp_path / "README.md").write_text("---\n")
    for index, name in enumerate(names):
        write(tmp_path / name, 10 * index)
    listing = list_sentences(str(tmp_path))
    expected = {f"text {10 * index + i}": split for index, split in enumerate(names.values()) for i in range(4)}
    assert dict(zip(listing.items, listing.splits, strict=True)) == expected
    assert len(set(listing.ids)) == len(listing.ids) == 4 * len(names)
    source = listing.source(np.array(listing.items), "")
    assert source.official_test.sum() == 4
    main([str(tmp_path)])
    assert "split official" in capsys.readouterr().out


def test_ids_and_groups_of_several_tables_are_unique(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("text,label,id,group\na,x,1,\nb,y,2,p\n")
    listing = list_sentences(str(tmp_path))
    assert len(set(listing.ids)) == 4
    assert len(set(listing.group_ids)) == 3  # a group may be in both files


def test_shards_without_a_test_are_one_table(tmp_path):
    for i in range(3):
        write(tmp_path / f"train-{i}.csv", 10 * i)
    listing = list_sentences(str(tmp_path))
    assert (len(listing.items), listing.splits) == (12, None)


def test_paths_of_images_lie_in_the_folder_of_the_tables(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{i}.png")
    for name, start in (("train", 0), ("test", 4)):
        rows = "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(start, start + 4))
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
    listing = list_images(str(tmp_path))
    assert listing.ids == [f"images/{i}.png" for i in range(8)]
    assert listing.splits == ["train"] * 4 + ["test"] * 4
    (tmp_path / "test.csv").write_text("path,label\nimages/0.png,a\nimages/7.png,b\n")
    assert "1 repeated path: " in refused(tmp_path, list_images)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("train.csv", "val.csv"), "tables for training and validation, but none for testing; add one, or rename"),
        (("val.csv", "test.csv"), "but no table for training"),
        (("train.csv", "test.csv", "train_clean.csv"), "several tables for the split 'train': train.csv, train_clean"),
        (("train.csv", "train.jsonl", "test.csv"), "several tables for the split 'train'"),
        (("train-00000-of-00002.parquet", "test-00000-of-00001.parquet"), "1 of 2 tables of the split 'train'"),
        (("train.csv", "test.csv", "more.csv"), "pass a table, e.g. "),
        (("a.csv", "b.csv"), "pass a table, e.g. "),
    ],
)
def test_ambiguous_tables_are_refused(names, says, tmp_path):
    for name in names:
        write(tmp_path / name, 0)
    assert says in refused(tmp_path)


def test_a_column_that_contradicts_the_table_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text,label,split\na,x,train\nb,y,Training\n")
    (tmp_path / "test.csv").write_text("text,label,split\nc,x,test\nd,y,train\n")
    message = refused(tmp_path)
    assert "test.csv, line 3: the column 'split' says 'train', but the name of the table says 'test'" in message
    (tmp_path / "test.csv").write_text("text,label,split\nc,x,test\nd,y,\n")
    assert list_sentences(str(tmp_path)).splits.count("test") == 2


def test_a_test_set_without_labels_is_refused_with_a_way_out(tmp_path):
    write(tmp_path / "train.csv", 0)
    (tmp_path / "test.csv").write_text("id,text\n1,a\n")
    message = refused(tmp_path)
    assert "test.csv, line 1: no column 'label'; columns: id, text" in message
    assert message.endswith(f"or pass {tmp_path / 'train.csv'} alone, to draw the test set from it")


def test_a_bad_row_is_named_with_its_table(tmp_path):
    write(tmp_path / "train.csv", 0)
    write(tmp_path / "test.csv", 5, more=",b\n")
    assert "test.csv, line 6: column 'text' is empty" in refused(tmp_path)
    listing = list_sentences(str(tmp_path), unreadable="skip")
    assert listing.faults.keys() == {"test.csv, line 6"}
    assert len(listing.items) == 8


@pytest.mark.parametrize("name", ["a.csv.gz", "a.xlsx", "a.zip", "a.arrow"])
def test_other_files_are_refused_with_a_way_out(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK")
    message = refused(tmp_path / name)
    assert "neither a folder nor a table (.csv, .tsv, .jsonl" in message
    assert ("unpack it" in message) == name.endswith((".gz", ".zip"))


def test_names_of_splits():
    assert [split_of(name) for name in ("train", "my-Test-2", "dev_set", "contest", "train_test", "Validation")] == [
        "train", "test", "val", None, None, "val",
    ]  # fmt: skip


def test_one_table_stands_for_its_folder(tmp_path):
    write(tmp_path / "train.csv", 0)
    assert locate(str(tmp_path)).tables == (tmp_path / "train.csv",)
    assert list_sentences(str(tmp_path)).splits is None
