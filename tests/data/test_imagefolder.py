"""Hugging Face's imagefolder: images beside tables of metadata that name them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from rgjax.data.custom import list_images
from rgjax.data.inspect import inspect
from rgjax.data.tables.columns import Columns
from rgjax.errors import UserError


def fill(folder, names, column="file_name", kind="csv", **columns):
    """Write images and their metadata; every column is a function of the number of the image."""
    rows = []
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 20 * number, np.uint8)).save(folder / name)
        rows.append({column: name} | {key: value(number) for key, value in columns.items()})
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


def animal(number):
    return "cat" if number % 2 else "dog"


def refused(place, **options):
    with pytest.raises(UserError) as error:
        list_images(str(place), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["file_name", "image_file_name"])
def test_metadata_at_the_root(kind, column, tmp_path):
    fill(tmp_path, [f"images/{i}.png" for i in range(6)], column, kind, label=animal, text=lambda i: f"picture {i}")
    listing = list_images(str(tmp_path))
    assert listing.ids == [f"images/{i}.png" for i in range(6)]
    assert listing.labels == ["dog", "cat"] * 3
    assert listing.splits is None and listing.notes == ()
    assert all(path.is_file() for path in listing.items)
    assert inspect(str(tmp_path))["kind"] == "images"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("wrapper", [".", "data"])
def test_metadata_in_each_split_folder(kind, wrapper, tmp_path):
    for split, count in (("train", 6), ("validation", 2), ("test", 4)):
        fill(tmp_path / wrapper / split, [f"{i}.png" for i in range(count)], kind=kind, label=animal)
    listing = list_images(str(tmp_path))
    assert sorted(listing.splits) == ["test"] * 4 + ["train"] * 6 + ["val"] * 2
    by_id = dict(zip(listing.ids, listing.splits, strict=True))
    prefix = "" if wrapper == "." else "data/"
    assert by_id[f"{prefix}train/5.png"] == "train" and by_id[f"{prefix}test/0.png"] == "test"
    assert all(
        path.is_file() and path.name == name.split("/")[-1] for path, name in zip(listing.items, by_id, strict=True)
    )


def test_metadata_at_the_root_name_split_folders(tmp_path):
    fill(tmp_path, [f"{split}/{i}.png" for split in ("train", "test") for i in range(3)], label=animal)
    listing = list_images(str(tmp_path))
    assert listing.splits == ["train"] * 3 + ["test"] * 3


def test_labels_by_another_name_are_mapped(tmp_path):
    fill(tmp_path, ["0.png", "1.png"], breed=animal)
    assert "no column 'label'; columns: file_name, breed" in refused(tmp_path)
    assert list_images(str(tmp_path), Columns.parse("label:breed")).labels == ["dog", "cat"]


def test_metadata_without_labels_beside_class_folders(tmp_path):
    fill(tmp_path, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(2)], caption=lambda i: f"picture {i}")
    listing = list_images(str(tmp_path))
    assert listing.labels == ["cat", "cat", "dog", "dog"]
    assert [note.names for note in listing.notes] == [("metadata.csv",)]


def test_class_folders_beside_metadata_have_the_notes_of_class_folders(tmp_path):
    fill(tmp_path, [f"{name}/{i}.png" for name in ("Cat", "cat") for i in range(2)], caption=lambda i: f"picture {i}")
    assert "near_class" in {note.kind for note in list_images(str(tmp_path)).notes}


def test_images_without_a_row_are_noted_and_rows_without_an_image_refused(tmp_path):
    fill(tmp_path, ["0.png", "1.png"], label=animal)
    Image.new("L", (4, 4)).save(tmp_path / "2.png")
    [note] = list_images(str(tmp_path)).notes
    assert (note.kind, note.names) == ("unlisted_image", ("2.png",))
    (tmp_path / "1.png").unlink()
    assert "1 of 2 images do not exist" in refused(tmp_path)


def test_a_split_without_metadata_is_refused(tmp_path):
    fill(tmp_path / "train", ["0.png", "1.png"], label=animal)
    (tmp_path / "test").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "test" / "0.png")
    assert f"{tmp_path / 'test'}: no table, but there is" in refused(tmp_path)


def test_a_table_of_texts_may_be_called_metadata(tmp_path):
    (tmp_path / "metadata.csv").write_text("text,label\nfine,good\npoor,bad\n")
    assert inspect(str(tmp_path / "metadata.csv"))["kind"] == "text"
