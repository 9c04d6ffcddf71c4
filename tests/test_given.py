"""Pseudo-classes that the data give: a column, a second level of folders, the classes behind data.positive."""

import json

import numpy as np
import pytest
from PIL import Image

from rgjax import experiment
from rgjax.config import binary_sweep, method_config
from rgjax.data.custom import list_images, list_sentences
from rgjax.data.inspect import inspect, readable
from rgjax.data.tables.columns import Columns
from rgjax.errors import UserError
from rgjax.preflight.program import spec_task

TINY = {
    "data.image_size": 8, "encoder.name": "projection", "model.name": "resnet10", "model.width": 8,
    "train.batch_size": 16, "train.steps": 2, "regroup.n_init": 1, "trackers": "",
}  # fmt: skip


def given(**changes):
    config = method_config("rg", TINY | changes)
    config.regroup.clustering = "given"
    return config


def names_of(task):
    """The set of subclasses in each pseudo-class."""
    dataset = task.dataset
    subclasses, pseudo = dataset.subclasses[dataset.train], task.regrouping.pseudo_labels
    return [set(subclasses[pseudo == k]) for k in range(task.regrouping.num_pseudo_classes)]


def test_the_classes_behind_positive_are_the_groups():
    config = given(**{"data.positive": "8", "encoder.name": "clip"})  # of which no weights are needed
    task = experiment.prepare(config)
    assert task.features is None
    assert names_of(task) == [{digit} for digit in "012345679"] + [{"8"}]
    assert task.regrouping.names == tuple("0123456798")
    assert spec_task(config).regrouping.counts.tolist() == task.regrouping.counts.tolist()


@pytest.fixture
def photos(tmp_path):
    """Noise of two classes; of cats, a part has subclasses."""
    rng = np.random.default_rng(0)
    for name, count in {"cat": 40, "cat/black": 20, "cat/white": 10, "cat/only one": 1, "dog": 10}.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.long
def test_folders_in_a_class_are_its_groups_in_a_whole_run(photos, tmp_path):
    config = given(**{"data.name": "images", "data.manual_dir": str(photos), "regroup.min_size": 2, "data.seed": 1})
    config.train.eval_percent = None
    first, again = experiment.prepare(config), experiment.prepare(config)  # the second from the cache
    np.testing.assert_array_equal(first.regrouping.pseudo_labels, again.regrouping.pseudo_labels)
    assert again.regrouping.names == first.regrouping.names
    groups = names_of(first)
    assert {"black"} in groups and {"white"} in groups and groups[-1] == {""}
    assert 2 <= groups.count({""}) - 1 <= 4  # about 26 cats in the training set have no subclass, and there are 6 dogs
    experiment.run(config, tmp_path / "w")
    with np.load(tmp_path / "w" / "regrouping.npz") as file:
        assert tuple(file["group_names"].tolist()) == first.regrouping.names
    assert (tmp_path / "w" / "groups" / "0-cat.png").exists()
    notes = json.loads((tmp_path / "w" / "provenance.json").read_text())["notes"]
    single = [note["text"] for note in notes if note["kind"] == "single_subclass"]
    assert single == [f"1 subclass with a single training example: {'only one'}; join it with another in the data"]
    # Other groups of the same features are another entry of the cache.
    (photos / "cat" / "white").rename(photos / "cat" / "whiter")
    assert {"whiter"} in names_of(experiment.prepare(config))


def write(path, subclasses, column="subclass"):
    rows = [f"text {i},{'ab'[i % 2]},{subclasses[i % len(subclasses)]}" for i in range(40)]
    path.write_text("\n".join([f"text,label,{column}", *rows]))
    return str(path)


def test_a_column_has_the_subclasses(tmp_path):
    place = write(tmp_path / "t.csv", [" x", "x ", "nan", ""])
    assert list_sentences(place).subclasses == ["x", "x", "", ""] * 10
    place = write(tmp_path / "u.csv", ["x", "y"], column="kind")
    assert list_sentences(place).subclasses is None
    listing = list_sentences(place, Columns.parse("subclass:kind"))
    assert listing.subclasses == ["x", "y"] * 20
    half = listing.select(np.arange(40) % 4 < 2)
    assert half.source(np.zeros(20), "").subclasses.tolist() == ["x", "y"] * 10
    assert list_sentences(write(tmp_path / "v.csv", [""])).subclasses is None


def test_original_classes_keep_their_subclasses_apart(tmp_path):
    rows = [f"text {i},{'abc'[i % 3]},{'x' if i % 2 else ''}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label,subclass", *rows]))
    config = method_config(
        "ce", {"data.name": "text", "data.manual_dir": str(tmp_path / "t.csv"), "data.positive": "c"}
    )
    dataset = experiment.load_data(config.data)
    assert dataset.subclasses[:6].tolist() == ["a", "b/x", "c", "a/x", "b", "c/x"]


@pytest.mark.parametrize("subclasses", [[""], None])
def test_data_without_subclasses_are_refused_with_the_ways_out(subclasses, tmp_path):
    config = given()
    if subclasses:
        place = write(tmp_path / "t.csv", subclasses)
        config = given(**{"data.name": "text", "data.manual_dir": place, "model.name": "bert"})
    with pytest.raises(UserError) as error:
        experiment.encoder_of(config, experiment.load_data(config.data), None)
    message = str(error.value)
    assert message.startswith("config.regroup.clustering=given: the data have no subclasses; add a column 'subclass'")
    assert "CLASS/SUBCLASS/" in message and "--config.data.positive=CLASS" in message and "\n" not in message


def test_ids_in_the_place_of_subclasses_are_refused(tmp_path):
    rows = [f"text {i},{'ab'[i % 5 == 0]},row {i}" for i in range(2000)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label,subclass", *rows]))
    config = given(**{"data.name": "text", "data.manual_dir": str(tmp_path / "t.csv")})
    with pytest.raises(UserError, match=r"^config\.regroup: a class has \d+ subclasses \(row 1.*more than 1000; join"):
        experiment.encoder_of(config, experiment.load_data(config.data), None)


def test_the_ablation_has_the_oracle_once():
    points = [point for point in binary_sweep((100, 200)) if point.get("variant") == "original classes"]
    assert points == [{"method": "rg", "variant": "original classes"}]


def test_inspect_counts_the_subclasses(photos):
    report = inspect(str(photos))
    assert [counts["subclasses"] for counts in report["classes"].values()] == [3, 0]
    assert "subclasses: cat 3; --config.regroup.clustering=given takes them as pseudo-classes" in readable(report)
    for name in ("black", "white", "only one"):
        for image in (photos / "cat" / name).iterdir():
            image.unlink()
        (photos / "cat" / name).rmdir()
    assert list_images(str(photos)).subclasses is None
    assert "subclasses" not in readable(inspect(str(photos)))
