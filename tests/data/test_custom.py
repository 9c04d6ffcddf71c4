import os

import numpy as np
import pytest
from PIL import Image

from rgjax.data import display_name
from rgjax.data.custom import list_images, list_sentences
from rgjax.errors import UserError


def image(path, color="red", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), color).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three images."""
    root = tmp_path / "flowers"
    for name in ("cat", "dog"):
        for i in range(3):
            image(root / name / f"{i}.png")
    return root


def table(folder, text, name="table.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refused(place, listing=list_images):
    with pytest.raises(UserError) as error:
        listing(str(place))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_are_classes_and_paths_are_ids(folder):
    image(folder / "cat" / "deep" / "er" / "4.JPEG")
    listing = list_images(str(folder))
    assert listing.ids == [
        "cat/0.png",
        "cat/1.png",
        "cat/2.png",
        "cat/deep/er/4.JPEG",
        *(f"dog/{i}.png" for i in range(3)),
    ]
    assert listing.labels == ["cat"] * 4 + ["dog"] * 3
    assert [path.relative_to(folder).as_posix() for path in listing.items] == listing.ids
    assert listing.splits is listing.group_ids is None
    assert listing.notes == ()


def test_class_names_of_all_kinds(folder):
    for name in ("two words", "Käse 🧀", ".net", "ca\u0301fe"):
        image(folder / name / "a.png")
    assert set(list_images(str(folder)).class_names) == {"cat", "dog", "two words", "Käse 🧀", ".net", "cáfe"}


def test_hidden_files_are_ignored_and_other_files_noted(folder):
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (folder / "cat" / name).write_bytes(b"x")
        (folder / name).write_bytes(b"x")
    image(folder / ".ipynb_checkpoints" / "a.png")
    image(folder / "cat" / ".thumbnails" / "a.png")
    listing = list_images(str(folder))
    assert len(listing.ids) == 6
    hidden_and_system = (
        "2 hidden files skipped: ._0.png, cat/._0.png",
        "2 folders skipped, made by a program or system: .ipynb_checkpoints, cat/.thumbnails",
    )
    assert tuple(map(str, listing.notes)) == hidden_and_system
    image(folder / "stray.png")
    (folder / "dog" / "notes.txt").write_text("")
    os.mkfifo(folder / "dog" / "pipe.png")
    assert tuple(map(str, list_images(str(folder)).notes)) == (
        "1 file skipped, not in a class folder: stray.png",
        *hidden_and_system,
        "2 files skipped, in class folders, without an image suffix: dog/notes.txt, dog/pipe.png",
    )


def test_linked_folders_are_read_once_and_parents_never(folder):
    (folder / "cat" / "again").symlink_to(folder / "cat")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "root").symlink_to("/")
    (folder / "cat" / "self").symlink_to("self")
    (folder / "dog" / "one.png").symlink_to(folder / "cat" / "0.png")
    (folder / "linked").symlink_to(folder / "dog")
    listing = list_images(str(folder))
    assert listing.labels == ["cat"] * 3 + ["dog"] * 4 + ["linked"] * 4
    [note] = listing.notes
    assert str(note) == "1 file skipped, in class folders, without an image suffix: cat/self"


@pytest.mark.parametrize(("val", "splits"), [("valid", {"train", "val", "test"}), (None, {"train", "test"})])
def test_split_folders_are_recognized(val, splits, tmp_path):
    for split in filter(None, ("Train", val, "TEST")):
        for name in ("cat", "dog"):
            image(tmp_path / split / name / "0.png")
    listing = list_images(str(tmp_path))
    assert listing.class_names == ("cat", "dog")
    assert set(listing.splits) == splits
    source = listing.source(np.zeros(len(listing.ids)), "")
    assert [identity.partition("/")[0] for identity in source.ids[source.official_test]] == ["TEST", "TEST"]
    assert (source.official_val is None) == (val is None)


def test_ambiguous_split_folders_are_refused(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / split / "cat" / "0.png")
    assert "none for testing; add one, or rename the validation folder to 'test'" in refused(tmp_path)
    image(tmp_path / "test" / "cat" / "0.png")
    image(tmp_path / "extra" / "cat" / "0.png")
    assert "train and test folders, but also others: extra; move these elsewhere" in refused(tmp_path)


def test_a_test_set_without_classes_is_refused(folder):
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)
    image(folder / "test" / "0.png")
    assert f"{folder / 'test'}: no class folders with images" in refused(folder)


def test_folders_without_images_or_classes_are_refused(folder, tmp_path):
    (folder / "empty").mkdir()
    assert "1 class folder without images: empty; add images or remove the folder" in refused(folder)
    (tmp_path / "none").mkdir()
    assert "no class folders with images" in refused(tmp_path / "none")
    (tmp_path / "none").rmdir()
    (folder / "empty").rmdir()
    assert "no such folder or table" in refused(tmp_path / "nowhere")
    assert "--config.data.manual_dir is missing" in refused("")
    assert "neither a folder nor a table" in refused(folder / "cat" / "0.png")


def test_a_table_of_paths(folder, tmp_path):
    rows = "path,label,group,split\n../flowers/cat/0.png,a,g1,train\n./cat/1.png,b,g1,dev\ncat/2.png,a,,Test\n"
    (tmp_path / "apart" / "cat").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (folder / "cat" / name).rename(tmp_path / "apart" / "cat" / name)
    for place in (table(tmp_path / "apart", rows), tmp_path / "apart"):  # or the folder that holds only this table
        listing = list_images(str(place))
        assert listing.ids == ["../flowers/cat/0.png", "cat/1.png", "cat/2.png"]
        assert all(path.is_file() for path in listing.items)
        assert listing.labels == ["a", "b", "a"]
        assert listing.group_ids == ["g1", "g1", "row 3"]
        assert listing.splits == ["train", "val", "test"]
        assert listing.source(np.zeros(3), "").group_ids.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("path,class\ncat/0.png,a\n", "line 1: no column 'label'; columns: path, class"),
        (
            "path,label\ncat/0.png,a\n./cat/0.png,b\n",
            "1 repeated path: line 2 and line 3 (cat/0.png); keep",
        ),
        ("path,label\ncat/0.png,a\ncat/9.png,b\ncat,b\n", "2 of 3 images do not exist: "),
        (f"path,label\ncat/0.png,a\n{'b' * 5000}.png,b\n", "1 of 2 images do not exist: "),
        (
            "path,label,split\ncat/0.png,a,train\ncat/1.png,b,tset\n",
            "line 3: unknown split 'tset'; use train, val or test",
        ),
        ("path,label,split\ncat/0.png,a,train\ncat/1.png,b,val\n", "no row has the split 'test'"),
        ("path,label\ncat/0.png,a\ncat/1.png,a\n", "only one class, 'a'; at least two are needed"),
    ],
)
def test_bad_tables_of_paths_are_refused(rows, says, folder):
    assert says in refused(table(folder, rows))


def test_a_table_beside_class_folders_is_refused(folder):
    path = table(folder, "path,label\ncat/0.png,a\ndog/0.png,b\n")
    assert f": holds table.csv beside 2 folders; pass a table, e.g. {path}" in refused(folder)
    assert list_images(str(path)).labels == ["a", "b"]


def test_sentences(tmp_path):
    rows = "text,label,id\nSales fell,bad,x\n sales  FELL ,bad,y\n\ufeffProfit,good,z\n"
    listing = list_sentences(str(table(tmp_path, rows)))
    assert listing.ids == ["x", "y", "z"]
    assert listing.items[1] == " sales  FELL "
    assert listing.source(np.zeros(3), "").group_ids.tolist() == [0, 0, 1]
    assert list_sentences(str(tmp_path)).labels == ["bad", "bad", "good"]  # the only table of the folder
    table(tmp_path, rows.replace("y\n", "x\n"))
    assert "1 repeated id: line 2 and line 3 (x)" in refused(tmp_path, list_sentences)
    (tmp_path / "table.csv").unlink()
    assert "no table; sentences need a table" in refused(tmp_path, list_sentences)


def test_custom_data_are_named_after_their_folder_or_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display_name("digits", "flowers") == "digits"
    assert [display_name("images", name) for name in ("a/flowers.v2/", "b/birds.csv", ".", "")] == [
        "flowers.v2", "birds", tmp_path.name, "images",
    ]  # fmt: skip
