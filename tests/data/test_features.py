"""Data sets of features: files in both formats, and bad input in one line."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rgjax.data import load_data
from rgjax.errors import UserError
from tests.support.data import data_config
from tests.support.features import blobs, write_features

FEATURES, LABELS = blobs()
COUNT = len(LABELS)


def load(path, **changes):
    return load_data(data_config("features", manual_dir=str(path), **changes))


def test_an_npz_file_is_read(tmp_path):
    dataset = load(write_features(tmp_path / "f.npz"))
    assert dataset.kind == "features" and dataset.name == "f"
    np.testing.assert_array_equal(dataset.inputs, FEATURES)
    np.testing.assert_array_equal(dataset.labels, LABELS)
    assert dataset.class_names == ("zebra", "ape", "cat")  # in the file's order
    assert dataset.ids[3] == "e3" and dataset.inputs.dtype == np.float32
    assert "340" not in dataset.summary and "features" in dataset.summary


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["zebra", "ape", "cat"])[LABELS],
        LABELS.astype(float),
        LABELS.astype(np.int8),
    ],
)
def test_labels_are_names_or_indices(labels, tmp_path):
    dataset = load(write_features(tmp_path / "f.npz", labels=labels))
    names = np.array(["zebra", "ape", "cat"])[LABELS]
    np.testing.assert_array_equal(np.array(dataset.class_names)[dataset.labels], names)


def test_files_without_names_or_ids(tmp_path):
    order = np.asfortranarray(FEATURES.astype(np.float64))
    dataset = load(write_features(tmp_path / "f.npz", features=order, class_names=None, ids=None))
    np.testing.assert_array_equal(dataset.inputs, FEATURES)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.ids[:2].tolist() == ["1", "2"]


def test_splits_and_groups_of_the_file_are_kept(tmp_path):
    splits = np.resize(["train", "train", "validation", "Test"], COUNT)
    dataset = load(write_features(tmp_path / "f.npz", split=splits), split="auto")
    np.testing.assert_array_equal(dataset.val, np.arange(2, COUNT, 4))
    np.testing.assert_array_equal(dataset.test, np.arange(3, COUNT, 4))

    groups = np.arange(COUNT) // 5
    dataset = load(write_features(tmp_path / "g.npz", groups=groups), split="auto")
    assert not set(groups[dataset.train]) & set(groups[dataset.test])


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
def test_a_parquet_table_is_the_same_data_set(kind, tmp_path, monkeypatch):
    # In files of over 86 MB, the numbers that may be read exceed int32.
    monkeypatch.setattr("rgjax.data.tables.parquet._MIN_NUMBERS", 2**40)
    inner = pa.float32()
    kinds = {"list": pa.list_(inner), "large": pa.large_list(inner), "fixed": pa.list_(inner, FEATURES.shape[1])}
    names = np.array(["zebra", "ape", "cat"])[LABELS]
    columns = {
        "id": [f"e{i}" for i in range(COUNT)],
        "features": pa.array(FEATURES.tolist(), kinds[kind]),
        "label": names,
        "other": np.zeros(COUNT),
    }
    parquet.write_table(pa.table(columns), tmp_path / "f.parquet", row_group_size=77)
    dataset = load(tmp_path / "f.parquet")
    np.testing.assert_array_equal(dataset.inputs, FEATURES)
    np.testing.assert_array_equal(np.array(dataset.class_names)[dataset.labels], names)
    assert dataset.ids.tolist() == columns["id"]


def changed(values, position, value):
    values = np.array(values)
    values[position] = value
    return values


IDS = np.array([f"e{i}" for i in range(COUNT)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None}, "no array 'features'; arrays: labels, ids, class_names"),
        ({"features": changed(FEATURES, (7, 2), np.nan)}, "the features of e7 are not finite"),
        ({"features": changed(FEATURES.astype(float), (7, 2), 1e300)}, "the features of e7 are not finite"),
        ({"features": FEATURES[0]}, r"features is float32 \[6\]; it must be numbers of shape \[N, D\]"),
        ({"features": FEATURES[:, :0]}, "it must be numbers of shape"),
        ({"features": FEATURES.astype(str)}, "it must be numbers of shape"),
        ({"features": FEATURES[:-1]}, "340 ids for 339 features|340 labels for 339 features"),
        ({"ids": changed(IDS, 5, "e4")}, "1 repeated id: e4"),
        ({"ids": changed(IDS, 5, "")}, "1 of 340 ids are empty"),
        ({"labels": None}, "no labels"),
        ({"labels": LABELS[:, None]}, r"labels is int64 \[340, 1\]"),
        ({"labels": changed(LABELS.astype(float), 9, np.nan)}, "1 missing label: e9"),
        ({"labels": changed(LABELS, 9, 3)}, "label 3 is none of the 3 class_names"),
        ({"labels": LABELS * 0}, "only one class"),
        ({"labels": LABELS.astype(object)}, "Python objects"),
        ({"split": np.resize(["train", "holdout"], COUNT)}, "unknown split holdout"),
        ({"split": np.resize(["train"], COUNT)}, "no row has the split 'test'"),
    ],
)
def test_bad_files_are_one_line(changes, message, tmp_path):
    path = write_features(tmp_path / "f.npz", **changes)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([[1.0, 2.0], [1.0]], "row 2 has 1 numbers in column 'features', row 1 has 2"),
        ([[1.0, 2.0], None], "row 2 has 0 numbers"),
        ([[1.0, 2.0], [None, 1.0]], "the features of 2 are not finite"),
        (pa.array([[], []], pa.list_(pa.float64())), "row 1 has 0 numbers"),
        ([1.0, 2.0], "it must be lists of numbers"),
        ([["a"], ["b"]], "it must be lists of numbers"),
    ],
)
def test_bad_vectors_in_parquet_are_one_line(features, message, tmp_path):
    parquet.write_table(pa.table({"features": features, "label": ["a", "b"]}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "f.parquet")


def test_other_files_and_settings_are_refused(tmp_path):
    (tmp_path / "f.csv").write_text("1,2")
    (tmp_path / "f.npz").write_bytes(b"PK broken")
    for path, message in [("f.csv", "not a file of features"), ("g.npz", "no such file"), ("f.npz", "not a readable")]:
        with pytest.raises(UserError, match=message):
            load(tmp_path / path)
    with pytest.raises(UserError, match=r"config.data.manual_dir="):
        load("")
    with pytest.raises(UserError, match=r"data.columns=label:y: a file of features has fixed names"):
        load(write_features(tmp_path / "h.npz"), columns="label:y")
