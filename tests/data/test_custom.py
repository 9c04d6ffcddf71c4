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


def sentences(tmp_path, *rows, **options):
    """The listing of ten good rows and `rows`."""
    good = [f"sentence {i},{'ab'[i % 2]}" for i in range(10)]
    return list_sentences(str(table(tmp_path, "\n".join(["text,label", *good, *rows]))), **options)


@pytest.mark.parametrize("empty", ["", "  ", '""', "\u00a0"])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_empty_texts_are_counted_and_can_be_skipped(empty, count, tmp_path):
    with pytest.raises(UserError) as error:
        sentences(tmp_path, *[f"{empty},a"] * count)
    assert "line 12: column 'text' is empty" in str(error.value)
    assert "skip by --config.data.unreadable=skip" in str(error.value)
    assert count == 1 or f"{count} of {10 + count} rows cannot be read (lines 12, 13, 14" in str(error.value)
    listing = sentences(tmp_path, *[f"{empty},a"] * count, unreadable="skip")
    assert len(listing.items) == 10
    assert [(note.kind, note.count) for note in listing.notes] == [("unreadable_row", count)]


@pytest.mark.parametrize("word", ["", "nan", "NaN", "null", "<NA>", " NULL "])
def test_labels_that_are_missing_are_refused_or_skipped(word, tmp_path):
    with pytest.raises(UserError, match=r"line 12: column 'label' is (empty|'.*', which stands for a missing value)"):
        sentences(tmp_path, f"x,{word}", "y,a")
    assert set(sentences(tmp_path, f"x,{word}", "y,a", unreadable="skip").class_names) == {"a", "b"}


@pytest.mark.parametrize("word", ["None", "NA", "n/a", "-"])
def test_labels_that_may_be_missing_are_classes_and_noted(word, tmp_path):
    listing = sentences(tmp_path, f"x,{word}", f"y,{word}")
    [note] = listing.notes
    assert word in listing.class_names
    assert (note.kind, note.names) == ("null_class", (f"'{word}' (2 examples: line 12, line 13)",))


@pytest.mark.parametrize(
    ("names", "near"),
    [
        (("1", "1.0", "2"), ["1.0"]),
        (("Fake", "fake", "real"), ["fake"]),
        (("fake news", "fake  news", "fake_news"), ["fake  news", "fake_news"]),
        (("ﬁne", "fine", "bad"), ["fine"]),  # a ligature
        (("a\u200bb", "ab", "c"), ["ab"]),
    ],
)
def test_names_that_are_nearly_equal_are_noted_with_their_rows(names, near, tmp_path):
    rows = [name for number, name in enumerate(names) for _ in range(5 - number)]
    listing = sentences(tmp_path, *(f"text {i},{name}" for i, name in enumerate(rows)))
    assert set(listing.class_names) == {"a", "b", *names}
    [note] = listing.notes
    assert (note.kind, note.count) == ("near_class", len(near))
    for text, name in zip(note.names, near, strict=True):
        assert f"'{name}' (" in text and f": line {12 + rows.index(name)}" in text and f"and '{names[0]}'" in text


@pytest.mark.parametrize(("one", "other"), [("caf\u00e9", "cafe\u0301"), ("pos", " pos"), ("pos", "pos\u00a0")])
def test_names_that_are_equal_but_for_spaces_and_unicode_are_joined(one, other, tmp_path):
    listing = sentences(tmp_path, f"x,{one}", f"y,{one}", f"z,{other}")
    assert len(listing.class_names) == 3
    [note] = listing.notes
    assert (note.kind, note.count) == ("joined_class", 1) and "line 14" in note.names[0]
    assert sentences(tmp_path, f"x,{other}", f"y,{other}").notes == ()  # nothing was joined


def test_folders_are_held_to_the_same_names(folder):
    for name in ("Cat", "nan", "do\u0308g", "d\u00f6g"):
        image(folder / name / "0.png")
    notes = {note.kind: note.names for note in list_images(str(folder)).notes}
    assert notes.keys() == {"near_class", "null_class", "joined_class"}
    assert notes["near_class"] == ("'Cat' (1 example: Cat/0.png) and 'cat'",)


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("images\\a.png", "images/a.png"),
        (".\\images\\deep\\a.png", "images/deep/a.png"),
        ("images//./a.png", "images/a.png"),
        ("Images/A.PNG", "images/a.png"),
        ("images/a.png", "images/a.PNG"),
        ("k\u00e4se/\u00e9.png", "ka\u0308se/e\u0301.png"),
        ("ka\u0308se/e\u0301.png", "k\u00e4se/\u00e9.png"),
        ("a.png", "images/deep/a.png"),
        ("a", "images/a.png"),
    ],
)
def test_paths_that_are_spelled_otherwise_are_found_and_noted(written, there, folder):
    image(folder / there)
    listing = list_images(str(table(folder, f"path,label\n{written},x\ndog/0.png,y\n")))
    assert listing.ids == [there, "dog/0.png"]
    assert listing.items[0].is_file()
    names = (f"{written} = {there}",) if written != "images//./a.png" else ()
    assert [note.names for note in listing.notes] == [names] * bool(names)


def test_the_exact_path_goes_first_and_several_near_ones_are_refused(folder):
    for name in ("A.png", "a.png", "b.PNG", "B.png", "a\\b.png", "deep/c.png", "deeper/c.jpg"):
        image(folder / "x" / name, **({"format": "PNG"} if name.startswith("a\\") else {}))
    exact = list_images(str(table(folder, "path,label\nx/a.png,u\nx/A.png,v\nx/a\\b.png,v\n")))
    assert exact.ids == ["x/a.png", "x/A.png", "x/a\\b.png"] and exact.notes == ()
    message = refused(table(folder, "path,label\nx/a.png,u\nx/b.png,v\n"))
    assert "line 3: 'x/b.png' may be x/B.png, x/b.PNG; write the path as it is" in message
    message = refused(table(folder, "path,label\nx/a.png,u\nc,v\n"))
    assert "'c' may be x/deep/c.png, x/deeper/c.jpg; write the path with its folder and suffix" in message
    assert "1 repeated path" in refused(table(folder, "path,label\ncat/0.png,a\nCAT/0.png,b\n"))


def test_missing_images_can_be_skipped(folder):
    place = str(table(folder, "path,label\ncat/0.png,a\ncat/77.png,a\ndog/0.png,b\n"))
    assert len(list_images(place, unreadable="skip").items) == 3  # decoding names the missing one


def test_custom_data_are_named_after_their_folder_or_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display_name("digits", "flowers") == "digits"
    assert [display_name("images", name) for name in ("a/flowers.v2/", "b/birds.csv", ".", "")] == [
        "flowers.v2", "birds", tmp_path.name, "images",
    ]  # fmt: skip
