import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rgjax.data import images, load_data
from rgjax.data.pictures import packed
from rgjax.errors import UserError
from tests.support.data import data_config


@pytest.fixture
def folder(tmp_path):
    """Nine images of noise in each of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(9):
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


def config_of(folder, **changes):
    return data_config("images", **{"image_size": 8, "manual_dir": str(folder), "split": "auto"} | changes)


def source_of(folder, **changes):
    return images.load(config_of(folder, **changes))


def dataset_of(folder, **changes):
    return load_data(config_of(folder, **changes))


def test_images_are_decoded_once_into_a_memory_map(folder, monkeypatch):
    first = source_of(folder)
    assert isinstance(first.inputs, np.memmap)
    for index in (0, 10):
        expected = Image.open(folder / first.ids[index]).resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(first.inputs[index], np.asarray(expected))
    monkeypatch.setattr(images, "decode_with_remarks", None)
    second = source_of(folder)
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert first.fingerprint == second.fingerprint


def test_threads_work_ahead_while_results_are_used(monkeypatch):
    monkeypatch.setattr(packed, "_READ_AHEAD", 3)
    started, working = [], threading.Event()

    def call(picture):
        started.append(int(picture[0, 0]))
        if len(started) == 6:
            working.set()
        return started[-1]

    results = images.map_in_threads(call, [np.full((1, 1), i, np.uint8) for i in range(30)])
    assert next(results) == 0
    assert working.wait(10)  # two lists of three, while this one waits
    assert len(started) == 6
    assert list(results) == list(range(1, 30))


def test_a_deleted_cache_file_is_decoded_again(folder):
    first = source_of(folder)
    content = np.array(first.inputs)
    file = first.inputs.filename
    del first
    file.unlink()
    np.testing.assert_array_equal(source_of(folder).inputs, content)


def test_a_cached_file_is_hashed_at_its_first_use_after_a_change_and_on_request(folder, monkeypatch):
    first = source_of(folder)
    content, file = np.array(first.inputs), Path(first.inputs.filename)
    del first

    def flip_a_bit(*, keep_time):
        stat, flipped = file.stat(), bytearray(file.read_bytes())
        flipped[-9] ^= 1
        file.write_bytes(flipped)
        if keep_time:
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    flip_a_bit(keep_time=True)
    assert not np.array_equal(source_of(folder).inputs, content)  # it was read without a hash
    monkeypatch.setenv("RGJAX_VERIFY_CACHE", "1")
    np.testing.assert_array_equal(source_of(folder).inputs, content)
    monkeypatch.delenv("RGJAX_VERIFY_CACHE")
    flip_a_bit(keep_time=False)
    np.testing.assert_array_equal(source_of(folder).inputs, content)
    assert len(list(file.parent.glob("*.damaged*"))) == 2


def test_the_fingerprint_depends_on_content_and_labels(folder, tmp_path):
    first = source_of(folder)
    folder.rename(tmp_path / "moved")
    assert source_of(tmp_path / "moved").fingerprint == first.fingerprint
    Image.new("RGB", (12, 9)).save(tmp_path / "moved" / "cat" / "3.png")
    changed = source_of(tmp_path / "moved")
    assert changed.fingerprint != first.fingerprint
    (tmp_path / "moved" / "dog").rename(tmp_path / "moved" / "wolf")
    assert source_of(tmp_path / "moved").fingerprint != changed.fingerprint


def test_images_of_all_modes_decode_equally(folder):
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    picture, exif = Image.fromarray(gray), Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(folder / "cat" / "a0.png")
    picture.convert("P").save(folder / "cat" / "a1.png")
    picture.convert("RGBA").save(folder / "cat" / "a2.PNG")
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "cat" / "a3.png")
    picture.convert("RGB").convert("CMYK").save(folder / "cat" / "a4.tif")
    picture.rotate(180).save(folder / "cat" / "a5.tiff", exif=exif)
    source = source_of(folder)
    equal = [index for index, identity in enumerate(source.ids) if "/a" in identity]
    assert len(equal) == 6
    for index in equal:
        assert np.abs(source.inputs[index].astype(int) - gray[..., None]).max() <= 1, source.ids[index]


def test_unreadable_images_stop_or_are_skipped(folder):
    whole = source_of(folder)
    (folder / "cat" / "0.png").write_bytes(b"")
    (folder / "dog" / "0.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:90])
    (folder / "dog" / "broken.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UserError) as error:
        source_of(folder)
    says = "3 of 19 images cannot be read"
    assert str(error.value).startswith(f"{folder}: {says}: cat/0.png (empty file), dog/0.png (")
    assert "dog/broken.jpg (No such file or directory)" in str(error.value)
    assert "--config.data.unreadable=skip" in str(error.value)
    source = source_of(folder, unreadable="skip")
    kept = [index for index, identity in enumerate(whole.ids) if identity not in ("cat/0.png", "dog/0.png")]
    np.testing.assert_array_equal(source.inputs, whole.inputs[kept])
    np.testing.assert_array_equal(source.ids, whole.ids[kept])
    np.testing.assert_array_equal(source.labels, whole.labels[kept])
    [note] = dataset_of(folder, unreadable="skip").notes
    assert (note.kind, note.count) == ("unreadable_image", 3)
    assert str(note).startswith("3 images skipped, cannot be read: cat/0.png (empty file)")


def test_a_class_without_readable_images_is_not_skipped(folder):
    for path in (folder / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="9 of 18 images cannot be read, among them all images of class cat: cat/0"):
        source_of(folder, unreadable="skip")


def test_too_small_a_class_is_reported_before_decoding(folder, monkeypatch):
    (folder / "bee").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "bee" / "0.png")
    monkeypatch.setattr(images, "decode_files", None)
    with pytest.raises(
        UserError, match="too few examples: class 'bee' has 1, and each class needs at least 3; add some, or"
    ):
        dataset_of(folder)


def test_split_folders_are_the_split_unless_another_is_configured(folder):
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in numbers:
                (folder / name / f"{i}.png").rename(folder / split / name / f"{i}.png")
    for name in ("cat", "dog"):
        (folder / name).rmdir()
    data = dataset_of(folder)
    assert data.name == "pets"
    assert all(identity.startswith("test/") for identity in data.ids[data.test])
    assert len(data.test) == 6
    assert len(data.train) == 8
    mixed = dataset_of(folder, split="stratified")
    assert any(identity.startswith("train/") for identity in mixed.ids[mixed.test])


def test_a_spec_has_the_examples_without_decoding(folder, monkeypatch):
    data = dataset_of(folder)
    monkeypatch.setattr(images, "decode_files", None)
    spec = load_data(config_of(folder), spec=True)
    assert spec.inputs.shape == (18, 8, 8, 3)
    np.testing.assert_array_equal(spec.labels, data.labels)
    np.testing.assert_array_equal(spec.train, data.train)


def test_a_full_disk_is_one_line(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(UserError, match=r"No space left on device.*RGJAX_CACHE"):
        source_of(folder)
