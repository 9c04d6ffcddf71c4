"""Columns that are not named after their roles: mapped, or proposed by a message that is a whole way out."""

import shlex

import pytest
from PIL import Image

from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.data.custom import list_images, list_sentences
from rgjax.data.tables.columns import Columns
from rgjax.errors import UserError

TEXTS = [(f"the team won match number {i}", "sport") for i in range(5)] + [("shares fell", "money"), ("so", "money")]


def write(folder, *rows, name="table.csv", delimiter=","):
    (folder / name).write_text("".join(delimiter.join(row) + "\n" for row in rows))
    return str(folder / name)


def refused(place, columns=None, listing=list_sentences):
    with pytest.raises(UserError) as error:
        listing(place, columns)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("head", "spec"),
    [
        (("sentence", "sentiment"), "text:sentence,label:sentiment"),
        (("Review", "target"), "text:Review,label:target"),
        (("text", "Class Name"), "label:Class Name"),
        (("content", "label"), "text:content"),
        (("frase", "tipo"), "text:frase,label:tipo"),  # by their values
        (("it's, long", "a:b"), "text:it's, long,label:a:b"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_proposed_option_reads_the_table(head, spec, delimiter, tmp_path):
    quoted = [f'"{name}"' for name in head]
    place = write(tmp_path, quoted, *TEXTS, delimiter=delimiter)
    message = refused(place)
    assert f"columns: {', '.join(head)}" in message
    [option] = shlex.split(message.partition("name them: ")[2])
    assert option == f"--config.data.columns={spec}"
    listing = list_sentences(place, Columns.parse(spec))
    assert (listing.items, listing.labels) == tuple(map(list, zip(*TEXTS, strict=True)))


@pytest.mark.parametrize(("head", "suffix"), [("file_name", ".png"), ("picture", ".jpg"), ("id", "")])
def test_columns_of_images_are_proposed(head, suffix, tmp_path):
    (tmp_path / "images").mkdir()
    names = [f"{i:03}" for i in range(4)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{name}{suffix or '.png'}")
    rows = [(f"images/{name}{suffix}" if suffix else name, "ab"[int(name) % 2]) for name in names]
    place = write(tmp_path, (head, "kind"), *rows)
    spec = refused(place, listing=list_images).partition("--config.data.columns=")[2]
    assert spec == f"path:{head},label:kind"
    listing = list_images(place, Columns.parse(spec))
    assert [path.name for path in listing.items] == [f"{name}{suffix or '.png'}" for name in names]
    assert [note.kind for note in listing.notes] == ([] if suffix else ["near_path"])


def test_all_roles_are_mapped(tmp_path):
    rows = [("t", "l", "patient", "fold", "key"), ("a", "x", "p1", "train", "k1"), ("b", "y", "p1", "test", "k2")]
    spec = "text:t, label:l,group:patient,split:fold,id:key"
    listing = list_sentences(write(tmp_path, *rows), Columns.parse(spec))
    assert (listing.group_ids, listing.splits, listing.ids) == (["p1", "p1"], ["train", "test"], ["k1", "k2"])
    assert Columns.parse(Columns.parse(spec).spec) == Columns.parse(spec)


def test_a_mapping_wins_over_the_name_of_the_role(tmp_path):
    place = write(tmp_path, ("text", "label", "body", "LABEL2"), ("a", "x", "A", "1"), ("b", "y", "B", "2"))
    listing = list_sentences(place, Columns.parse("text:body,label:label2"))
    assert (listing.items, listing.labels) == (["A", "B"], ["1", "2"])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("txt:a", "unknown role 'txt' (did you mean 'text'?); valid: text, path, label, group, split, id"),
        ("sentence", "'sentence' is not ROLE:COLUMN, e.g. text:sentence,label:class"),
        ("text:", "'text:' is not ROLE:COLUMN"),
        ("text:a,text:b", "the role text has two columns, 'a' and 'b'"),
        ("text:a,label:a", "a column cannot be both the content and the label"),
    ],
)
def test_a_wrong_mapping_is_refused(spec, says):
    with pytest.raises(UserError) as error:
        Columns.parse(spec, "--columns")
    assert str(error.value) == f"--columns={spec}: {says}" or says in str(error.value)


@pytest.mark.parametrize("name", ["table.csv", "table.tsv"])
def test_a_mapped_column_that_is_missing_is_refused(name, tmp_path):
    delimiter = "\t" if name.endswith("tsv") else ","
    place = write(tmp_path, ("text", "label"), *TEXTS, name=name, delimiter=delimiter)
    says = "no column 'sentence', which --config.data.columns names; columns: text, label"
    assert says in refused(place, Columns.parse("text:sentence"))


def test_a_missing_header_and_a_wrong_suffix_are_named(tmp_path):
    assert "line 1 seems to be an example: add a line before it" in refused(write(tmp_path, *TEXTS))
    place = write(tmp_path, ("text", "label"), *TEXTS, name="table.tsv")
    assert "separated by ','? rename it to table.csv" in refused(place)


def test_text_and_paths_in_one_table_are_told_apart_by_the_mapping(tmp_path):
    from rgjax.data.tables.reader import open_table

    file = tmp_path / "table.csv"
    write(tmp_path, ("text", "path", "label"), ("a", "b.png", "x"))
    with pytest.raises(UserError) as error:
        open_table(file).content()
    assert "both columns, text and path; choose the images by --config.data.columns=path:path" in str(error.value)
    assert open_table(file, Columns.parse("path:path")).content() == "path"
    assert open_table(file, Columns.parse("text:text")).content() == "text"


def test_a_mapping_without_a_table_is_refused(tmp_path):
    for name, place in (("images", tmp_path), ("digits", "")):
        for label in "ab" if place else "":
            (tmp_path / label).mkdir()
            Image.new("RGB", (8, 8)).save(tmp_path / label / "0.png")
        data = method_config("ce", {"data.name": name, "data.manual_dir": str(place), "data.columns": "path:a"}).data
        with pytest.raises(UserError, match=r"config.data.columns=path:a: .*; leave the option out"):
            load_data(data)
