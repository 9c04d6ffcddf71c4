import io
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rgjax.data.cifar100 import Cifar100, load
from rgjax.errors import UserError
from tests.support.data import data_config


def cifar(**folders):
    return data_config("cifar100", image_size=32, **{field: str(path) for field, path in folders.items()})


@pytest.fixture
def archive(tmp_path):
    """An archive in CIFAR-100's binary layout with 30 training and 20 test images, and its records."""
    rng = np.random.default_rng(0)
    records = {name: rng.integers(0, 256, (n, 2 + 3072), np.uint8) for name, n in (("train", 30), ("test", 20))}
    for bytes_of in records.values():
        bytes_of[:, 0] %= 20
        bytes_of[:, 1] = np.arange(len(bytes_of)) % 10
    files = {f"{name}.bin": bytes_of.tobytes() for name, bytes_of in records.items()}
    files["fine_label_names.txt"] = "\n".join(f"fine{i}" for i in range(100)).encode() + b"\n"
    files["coarse_label_names.txt"] = "\n".join(f"coarse{i}" for i in range(20)).encode() + b"\n"
    path = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path, records


def test_the_builder_returns_the_content_of_the_archive(archive, tmp_path, monkeypatch):
    path, records = archive
    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda self, url: path)
    source = load(cifar(manual_dir=tmp_path, data_dir=tmp_path / "prepared"))
    assert source.class_names[7] == "fine7"
    assert source.official_test is not None
    assert source.official_test.sum() == 20
    for identity, image, label in zip(source.ids, source.inputs, source.labels, strict=True):
        name, number = identity.split("_")
        record = records[name][int(number)]
        assert label == record[1]
        np.testing.assert_array_equal(image, record[2:].reshape(3, 32, 32).transpose(1, 2, 0))
    by_tfds = tfds.data_source("cifar100", data_dir=str(tmp_path / "prepared"), split="test")
    assert sorted(example["id"].decode() for example in by_tfds) == [f"test_{i:05d}" for i in range(20)]


def test_without_server_and_archive_the_error_names_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no route to host"))
    )
    with pytest.raises(UserError, match=r"no route to host.*cifar-100-binary\.tar\.gz.*--config\.data\.manual_dir"):
        load(cifar(data_dir=tmp_path))


def test_a_wrong_archive_is_refused(tmp_path):
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(b"not the archive")
    with pytest.raises(UserError, match="cannot be prepared"):
        load(cifar(manual_dir=tmp_path, data_dir=tmp_path / "prepared"))


def test_name_and_version_equal_the_tfds_catalogs(tmp_path):
    assert Cifar100(data_dir=str(tmp_path)).info.full_name == "cifar100/3.0.2"


@pytest.mark.long
def test_real_images(shared_data):
    source = load(cifar(data_dir=shared_data / "tensorflow_datasets"))
    assert source.class_names[0] == "apple"
    assert source.official_test is not None
    assert np.bincount(source.labels[source.official_test]).tolist() == [50] * 100
    assert np.bincount(source.labels[~source.official_test]).tolist() == [250] * 100
