"""Parquet files with images inside, as the Hugging Face hub has them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from rgjax.data import images, load_data
from rgjax.data.custom import list_images
from rgjax.data.inspect import inspect
from rgjax.data.pictures.packed import Packed, read_images
from rgjax.data.tables.columns import Columns
from rgjax.errors import UserError
from tests.support.data import data_config

NAMES = ["cat", "dog"]
CLASS_LABEL = {"label": {"names": NAMES, "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def picture(number):
    """The content of a PNG file of one gray level and noise."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue(), noise


def write(path, numbers, *, plain=False, features=None, **options):
    """Rows with the image and the label of each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = [picture(number)[0] for number in numbers]
    column = contents if plain else [{"bytes": content, "path": "x.png"} for content in contents]
    labels = [number % 2 for number in numbers]
    table = pa.table({"image": column, "label": labels if features else [NAMES[label] for label in labels]})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pa.parquet.write_table(table, path, **options)


def dataset_of(place, **changes):
    settings = {"image_size": 8, "manual_dir": str(place), "split": "auto"} | changes
    return load_data(data_config("images", **settings))


def refused(place, **options):
    with pytest.raises(UserError) as error:
        list_images(str(place), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def layout(name):
    """The paths of the shards of train and test."""
    return {
        "hub": [f"data/{name}.parquet" for name in ("train-00000-of-00002", "train-00001-of-00002", "test-0-of-1")],
        "root": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet"],
        "converted": ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["hub", "root", "converted"])
@pytest.mark.parametrize("features", [None, CLASS_LABEL])
def test_shards_are_read_with_their_split(name, features, tmp_path):
    for path, numbers in zip(layout(name), (range(8), range(8, 12), range(12, 18)), strict=True):
        write(tmp_path / path, numbers, features=features, row_group_size=3)
    data = dataset_of(tmp_path)
    assert data.class_names == ("cat", "dog") and len(data.test) == 6 and data.notes == ()
    order = [*range(8), *range(8, 12), *range(12, 18)]
    if data.ids[0].startswith(("test", "data/test", "default/test")):
        order = order[12:] + order[:12]
    for index, number in enumerate(order):
        np.testing.assert_array_equal(data.inputs[index][..., 0], picture(number)[1])
        assert data.class_names[data.labels[index]] == NAMES[number % 2]
    assert len(set(data.ids)) == 18


@pytest.mark.parametrize("plain", [False, True])
def test_one_file_is_split_at_random(plain, tmp_path):
    write(tmp_path / "pets.parquet", range(20), plain=plain)
    data = dataset_of(tmp_path / "pets.parquet")
    assert data.name == "pets" and len(data.train) + len(data.val) + len(data.test) == 20
    report = inspect(str(tmp_path / "pets.parquet"))
    assert (report["kind"], report["rows"], report["modes"]) == ("images", 20, {"L": 20})


def test_they_are_decoded_once_unless_a_file_changes(tmp_path, monkeypatch):
    write(tmp_path / "pets.parquet", range(20))
    before = dataset_of(tmp_path / "pets.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_with_remarks", None)
        assert dataset_of(tmp_path / "pets.parquet").fingerprint == before.fingerprint
    write(tmp_path / "pets.parquet", range(1, 21))
    assert dataset_of(tmp_path / "pets.parquet").fingerprint != before.fingerprint


def test_the_only_class_label_is_the_label_and_an_unlabeled_row_is_named(tmp_path):
    features = {"kind": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = pa.table({"img": [{"bytes": picture(i)[0], "path": None} for i in range(4)], "kind": [0, 1, 1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    assert "row 4: column 'kind' is empty" in refused(tmp_path / "x.parquet")
    assert list_images(str(tmp_path / "x.parquet"), unreadable="skip").labels == ["a", "b", "b"]


def test_several_columns_of_images_need_a_choice(tmp_path):
    rows = [{"bytes": picture(i)[0], "path": None} for i in range(4)]
    pa.parquet.write_table(pa.table({"left": rows, "right": rows, "label": list("abab")}), tmp_path / "x.parquet")
    assert "several columns hold images: left, right; choose one by --config.data.columns=path:left" in refused(
        tmp_path
    )
    listing = list_images(str(tmp_path), Columns.parse("path:right"))
    assert listing.items[0] == Packed(tmp_path / "x.parquet", "right", 0)


def test_bad_images_are_unreadable_rows(tmp_path):
    rows = [{"bytes": picture(i)[0], "path": None} for i in range(20)]
    rows[3], rows[5], rows[7] = {"bytes": b"no image", "path": None}, None, {"bytes": None, "path": "there.png"}
    (tmp_path / "there.png").write_bytes(picture(7)[0])
    pa.parquet.write_table(pa.table({"image": rows, "label": list("ab" * 10)}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"2 of 20 images cannot be read: 4 \(not an image.*6 \(no image in this row\)"):
        dataset_of(tmp_path / "x.parquet")
    data = dataset_of(tmp_path / "x.parquet", unreadable="skip")
    assert len(data.ids) == 18
    np.testing.assert_array_equal(data.inputs[data.ids.tolist().index("8")][..., 0], picture(7)[1])


def test_a_damaged_file_is_one_line(tmp_path):
    write(tmp_path / "x.parquet", range(20), compression="none", write_page_checksum=True)
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[:-50])
    assert "not a readable parquet file" in refused(tmp_path / "x.parquet")
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT", 500)] ^= 1
    (tmp_path / "x.parquet").write_bytes(damaged)
    with pytest.raises(UserError, match=r"20 of 20 images cannot be read: 1 \(x.parquet is damaged"):
        dataset_of(tmp_path / "x.parquet")


def test_a_bomb_is_refused_before_it_inflates(tmp_path):
    rows = [{"bytes": bytes(2**24 + i), "path": None} for i in range(20)]
    pa.parquet.write_table(
        pa.table({"image": rows, "label": list("ab" * 10)}), tmp_path / "x.parquet", compression="zstd"
    )
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    assert "bytes, over 100 times its size" in refused(tmp_path / "x.parquet")


def test_rows_are_read_a_few_at_a_time(tmp_path):
    write(tmp_path / "x.parquet", range(40), row_group_size=40)
    wanted_rows = [1, 2, 30, 31, 39]
    [batch] = read_images(Packed(tmp_path / "x.parquet", "image", row) for row in wanted_rows)
    assert batch == [picture(row)[0] for row in wanted_rows]


def test_damaged_metadata_are_one_line_or_unreadable_images(tmp_path):
    write(tmp_path / "x.parquet", range(6))
    whole, rng = (tmp_path / "x.parquet").read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(1, 900, 3):
            damaged[-place] = rng.integers(256)
        (tmp_path / "x.parquet").write_bytes(damaged)
        try:
            listing = list_images(str(tmp_path / "x.parquet"))
            assert sum(map(len, read_images(listing.items))) == len(listing.items)
        except UserError as error:
            assert "\n" not in str(error)
