"""Arrays of images in the form of MedMNIST: read with their split, or refused in one line."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from rgjax.data import images, load_data
from rgjax.data.custom import list_images
from rgjax.data.inspect import inspect
from rgjax.errors import UserError
from tests.support.data import data_config

RNG = np.random.default_rng(0)
COUNTS = {"train": 12, "val": 4, "test": 6}


def arrays(shape=(8, 8), labels=(1,), splits=COUNTS):
    content = {}
    for split in splits:
        content[f"{split}_images"] = RNG.integers(0, 256, (COUNTS[split], *shape), np.uint8)
        content[f"{split}_labels"] = (np.arange(COUNTS[split]) % 3).astype(np.uint8).reshape(-1, *labels)
    return content


def written(folder, content, *, compressed=True):
    (np.savez_compressed if compressed else np.savez)(folder / "data.npz", **content)
    return folder / "data.npz"


def dataset_of(file, size=8):
    return load_data(data_config("images", image_size=size, manual_dir=str(file), split="auto"))


def refused(file):
    with pytest.raises(UserError) as error:
        list_images(str(file))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("shape", "labels"), [((8, 8), (1,)), ((8, 8, 3), ()), ((8, 8, 1), ())])
def test_the_arrays_are_the_examples_and_the_split(shape, labels, compressed, tmp_path):
    content = arrays(shape, labels)
    file = written(tmp_path, content, compressed=compressed)
    data = dataset_of(file)
    assert {name: len(indices) for name, indices in data.splits.items()} == COUNTS
    assert (data.name, data.class_names, data.notes) == ("data", ("0", "1", "2"), ())
    for split, indices in data.splits.items():
        assert data.ids[indices].tolist() == [f"{split}:{row}" for row in range(COUNTS[split])]
        expected = content[f"{split}_images"].reshape(-1, 8, 8, shape[2] if len(shape) == 3 else 1)
        np.testing.assert_array_equal(data.inputs[indices], np.broadcast_to(expected, (*expected.shape[:3], 3)))
        np.testing.assert_array_equal(data.labels[indices], content[f"{split}_labels"].reshape(-1))
    assert dataset_of(tmp_path).ids.tolist() == data.ids.tolist()  # the folder that holds only this file


def test_images_are_resized_as_files_are(tmp_path):
    content = arrays()
    data = dataset_of(written(tmp_path, content), 5)
    expected = Image.fromarray(content["test_images"][2]).resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.inputs[data.test[2]][..., 0], expected)


def test_they_are_decoded_once_unless_the_file_changes(tmp_path, monkeypatch):
    content = arrays()
    before = dataset_of(written(tmp_path, content))
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_with_remarks", None)
        assert dataset_of(tmp_path / "data.npz").fingerprint == before.fingerprint
    content["train_images"][0] += 1
    assert dataset_of(written(tmp_path, content)).fingerprint != before.fingerprint


def test_without_validation_it_is_drawn_and_one_array_is_split_at_random(tmp_path):
    assert len(dataset_of(written(tmp_path, arrays(splits=("train", "test")))).val) > 0
    listing = list_images(str(written(tmp_path, arrays(splits=("train",)))))
    assert (len(listing.ids), listing.splits) == (12, None)


def test_inspect_reports_them(tmp_path):
    report = inspect(str(written(tmp_path, arrays())))
    assert (report["kind"], report["rows"], report["split"], report["modes"]) == ("images", 22, "official", {"L": 22})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_labels": np.zeros((12, 14), np.uint8)}, "train_labels has 14 labels per image; only one is supported"),
        ({"train_images": np.zeros((12, 8, 8, 8), np.uint8)}, "volumes are not supported, save their slices"),
        ({"train_images": np.zeros((12, 8, 8, 8, 1), np.uint8)}, "volumes are not supported"),
        ({"test_images": np.zeros((6, 8, 8), np.float32)}, "test_images is float32 [6, 8, 8]; it must be uint8"),
        ({"train_images": np.zeros((12, 0, 8), np.uint8)}, "must be uint8 of 1 to"),
        ({"val_labels": np.zeros(3, np.uint8)}, "val_labels is uint8 [3]; it must be integers or text of shape [4]"),
        ({"val_labels": np.full(4, 0.5)}, "val_labels is float64 [4]"),
        ({"val_labels": np.array([{}] * 4)}, "it holds Python objects, which are never loaded"),
        ({"test_labels": None}, "no array 'test_labels'; arrays: train_images, train_labels"),
        ({"test_images": None}, "but no test_images; only val_images is optional"),
        ({f"{split}_images": None for split in COUNTS}, "no arrays train_images and test_images; arrays: train_labels"),
        ({"train_images": np.asfortranarray(np.zeros((12, 8, 8), np.uint8))}, "Fortran order"),
    ],
)
def test_other_arrays_are_refused(change, says, tmp_path):
    content = {name: value for name, value in (arrays() | change).items() if value is not None}
    assert says in refused(written(tmp_path, content))


def test_a_bomb_is_refused_before_it_inflates(tmp_path):
    content = arrays() | {"train_images": np.zeros((12, 1024, 1024), np.uint8)}
    assert "over 100 times the size of the file" in refused(written(tmp_path, content))


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    file = written(tmp_path, arrays(), compressed=False)
    header, claim = io.BytesIO(), {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in (members | {"train_images.npy": header.getvalue() + bytes(100)}).items():
            archive.writestr(name, value)
    assert "train_images.npy has another size than it claims" in refused(file)


def test_damage_is_refused_or_unreadable(tmp_path):
    file = written(tmp_path, arrays(), compressed=False)
    whole = file.read_bytes()
    file.write_bytes(whole[:500])
    assert "not a readable .npz file" in refused(file)
    (tmp_path / "text.npz").write_text("no archive")
    assert "not a readable .npz file" in refused(tmp_path / "text.npz")
    large = arrays((80, 80))
    damaged = bytearray(written(tmp_path, large, compressed=False).read_bytes())
    damaged[damaged.index(b"test_images.npy") + 6 * 80 * 80] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"6 of 22 images cannot be read: test:0 \(data.npz is damaged: Bad CRC"):
        dataset_of(file)
