"""Folders as people have them: with trash, wrappers, files of other kinds and files without a suffix."""

import numpy as np
import pytest
from PIL import Image

from rgjax.data.custom import list_images
from rgjax.errors import UserError


def fill(folder, count=3, suffix=".png"):
    """Write images of noise, as PNG whatever their suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((4, 4), 20 * i, np.uint8)).save(folder / f"{i}{suffix}", "PNG")


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "pets" / "cat")
    fill(tmp_path / "pets" / "dog")
    return tmp_path / "pets"


def noted(place):
    listing = list_images(str(place))
    return listing, {note.kind: note for note in listing.notes}


def refused(place):
    with pytest.raises(UserError) as error:
        list_images(str(place))
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    [".Trash-1000/files", "#recycle", "$RECYCLE.BIN/S-1-5-21", "@eaDir", "lost+found", "System Volume Information",
     "__MACOSX", ".AppleDouble", ".Spotlight-V100", ".fseventsd", ".Trashes", ".dropbox.cache", "@Recently-Snapshot",
     "#snapshot", ".sync", ".thumbnails", "found.000", ".Trash", ".git"],
)  # fmt: skip
def test_folders_of_systems_are_no_classes(name, folder):
    for parent in (folder, folder / "cat", folder / "cat" / "deep"):
        fill(parent / name)
    listing, notes = noted(folder)
    assert listing.labels == ["cat"] * 3 + ["dog"] * 3
    assert set(notes) == {"system_folder"}
    assert notes["system_folder"].count == 3
    assert notes["system_folder"].names[0] == name.partition("/")[0]


def test_trash_beside_split_folders_is_no_split(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name)
        fill(tmp_path / split / "#recycle")
    fill(tmp_path / ".Trash-0" / "files")
    fill(tmp_path / ".old" / "cat")
    listing, notes = noted(tmp_path)
    assert set(listing.labels) == {"cat", "dog"} and set(listing.splits) == {"train", "test"}
    assert notes["system_folder"].names == (".Trash-0", "test/#recycle", "train/#recycle")
    assert notes["hidden_folder"].names == (".old",)


def test_classes_whose_names_look_odd_are_kept_and_hidden_ones_noted(folder):
    for name in (".net", "C#", "$money", "@home", "#1", "trash", "cache"):
        fill(folder / name)
    (folder / ".config").mkdir()
    listing, notes = noted(folder)
    assert {".net", "C#", "$money", "@home", "#1", "trash", "cache"} < set(listing.labels)
    assert {kind: note.names for kind, note in notes.items()} == {"hidden_class": (".net",)}


def test_hidden_images_and_folders_in_classes_are_noted(folder):
    fill(folder / "cat" / ".old")
    Image.new("L", (4, 4)).save(folder / "dog" / ".9.jpg")
    listing, notes = noted(folder)
    assert len(listing.ids) == 6
    assert {kind: note.names for kind, note in notes.items()} == {
        "hidden_file": ("dog/.9.jpg",), "hidden_folder": ("cat/.old",),
    }  # fmt: skip


def test_images_without_a_suffix_are_read_and_noted(folder):
    fill(folder / "cat", suffix="")
    (folder / "cat" / "README").write_text("no image\n" * 99)
    (folder / "dog" / "checksums").write_bytes(bytes(range(256)))
    listing, notes = noted(folder)
    assert listing.ids[:6] == ["cat/0", "cat/0.png", "cat/1", "cat/1.png", "cat/2", "cat/2.png"]
    assert notes["no_suffix"].names == ("cat/0", "cat/1", "cat/2")
    assert notes["other_file"].names == ("cat/README", "dog/checksums")


def test_classes_of_files_without_suffix_are_classes(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, suffix="")
    listing, notes = noted(tmp_path)
    assert (len(listing.ids), notes["no_suffix"].count) == (6, 6)


def test_kinds_that_are_not_read_are_counted(folder):
    for name in ("a.HEIC", "b.heic", "c.mp4", "d.dcm"):
        (folder / "cat" / name).write_bytes(b"x")
    (folder / "cat" / "labels.json").write_text("{}")
    _, notes = noted(folder)
    assert notes["other_file"].names == ("cat/labels.json",)
    assert notes["other_kind"].count == 4
    assert notes["other_kind"].names[0] == "2 .heic (HEIC photos: convert them to PNG or JPEG)"


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "dicom" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "dicom" / name / f"{i}.dcm").write_bytes(b"x")
    assert "it holds 8 .dcm (DICOM images: convert them to PNG or JPEG)" in refused(tmp_path / "dicom")
    (tmp_path / "zipped").mkdir()
    for name in ("cat.zip", "dog.zip"):
        (tmp_path / "zipped" / name).write_bytes(b"x")
    assert "it holds 2 .zip (archives: unpack them); make one folder per class" in refused(tmp_path / "zipped")
    fill(tmp_path / "flat", count=5)
    assert "it holds 5 images, but in no class folder; make one folder per class" in refused(tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    assert "it holds no files" in refused(tmp_path / "empty")


def test_an_empty_class_says_what_it_holds(folder):
    (folder / "bee").mkdir()
    assert "1 class folder without images: bee; add images" in refused(folder)
    (folder / "bee" / "1.svg").write_text("<svg/>")
    assert "bee (it holds 1 .svg (vector graphics: convert them to PNG or JPEG)); add" in refused(folder)


@pytest.mark.parametrize("wrapper", ["data", "flowers/flowers"])
def test_a_folder_around_the_classes_or_splits_is_entered(wrapper, tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / "official" / wrapper / split / name)
            fill(tmp_path / "random" / wrapper / name)
    (tmp_path / "random" / "readme.txt").write_text("")
    fill(tmp_path / "random" / "__MACOSX" / "cat")
    listing, notes = noted(tmp_path / "random")
    assert listing.ids[0] == f"{wrapper}/cat/0.png"
    assert set(listing.labels) == {"cat", "dog"} and listing.splits is None
    assert (notes["stray_file"].names, notes["system_folder"].names) == (("readme.txt",), ("__MACOSX",))
    listing, _ = noted(tmp_path / "official")
    assert set(listing.labels) == {"cat", "dog"} and listing.splits == ["test"] * 6 + ["train"] * 6


def test_the_second_level_of_folders_has_the_subclasses(folder):
    assert list_images(str(folder)).subclasses is None
    fill(folder / "cat" / "black" / "deep", 2)
    fill(folder / "cat" / "white", 1)
    listing = list_images(str(folder))
    expected = {"0.png": "", "1.png": "", "2.png": "", "black/deep/0.png": "black", "black/deep/1.png": "black"}
    of_cats = {identity.removeprefix("cat/"): listing.subclasses[i] for i, identity in enumerate(listing.ids[:6])}
    assert of_cats == expected | {"white/0.png": "white"} and not any(listing.subclasses[6:])
    assert listing.labels == ["cat"] * 6 + ["dog"] * 3  # deeper folders are no classes


def test_subclasses_below_the_folders_of_splits(folder):
    fill(folder / "train" / "cat" / "black")
    fill(folder / "train" / "dog")
    fill(folder / "test" / "cat")
    fill(folder / "test" / "dog")
    for name in ("cat", "dog"):
        for image in (folder / name).iterdir():
            image.unlink()
        (folder / name).rmdir()
    listing = list_images(str(folder))
    black = [identity for identity, name in zip(listing.ids, listing.subclasses, strict=True) if name]
    assert black == [f"train/cat/black/{i}.png" for i in range(3)] and set(listing.subclasses) == {"", "black"}
