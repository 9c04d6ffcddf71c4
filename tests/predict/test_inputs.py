"""Images inside files are inputs of predictions too."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from rgjax.data.tables.columns import Columns
from rgjax.predict.inputs import images
from tests.support.pictures import png16


def read(path):
    return list(images([str(path)], 4, "auto", Columns()))


def test_the_images_of_an_npz_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=pixels[:2], test_images=pixels[2:])  # without labels
    rows = read(tmp_path / "x.npz")
    assert [row.id for row in rows] == ["train:0", "train:1", "test:0", "test:1", "test:2"]
    np.testing.assert_array_equal([row.content[..., 0] for row in rows], pixels)
    np.savez(tmp_path / "y.npz", test_images=pixels[..., None].repeat(9, axis=3))
    [row] = read(tmp_path / "y.npz")
    assert "volumes are not supported" in row.fault


def test_the_images_of_a_parquet_file(tmp_path):
    contents = [png16(np.full((4, 4), value, np.uint16)) for value in (100, 65535)]
    cells = [{"bytes": contents[0]}, {"bytes": b"no image"}, None, {"bytes": contents[1]}]
    pa.parquet.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    rows = read(tmp_path / "x.parquet")
    assert [row.id for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row.fault) for row in rows] == [False, True, True, False]
    assert (rows[3].content == 255).all()
    assert "rescaled_image" in rows[0].remarks


def test_images_without_a_suffix_in_a_folder(tmp_path):
    (tmp_path / "0").write_bytes(png16(np.zeros((4, 4), np.uint16)))
    (tmp_path / "README").write_text("no image")
    assert [row.id for row in read(tmp_path)] == [str(tmp_path / "0")]
