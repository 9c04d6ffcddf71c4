import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from rgjax import experiment
from rgjax.config import FIELDS, method_config
from rgjax.data.inspect import RULES, inspect, main, readable
from rgjax.errors import UserError

ROOT = Path(__file__).parents[2]
SIZES = (80, 60, 50, 40, 32, 28, 24, 20, 16, 12)
TINY = {
    "data.image_size": 16, "encoder.name": "projection", "model.name": "resnet10", "model.width": 8,
    "train.batch_size": 32, "train.steps": 8, "regroup.n_init": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """scikit-learn's digits as PNG files in ten folders, from 80 to 12 of a class."""
    root = tmp_path_factory.mktemp("own") / "ten digits"
    pixels, labels = load_digits(return_X_y=True)
    for c, size in enumerate(SIZES):
        (root / f"a {c}").mkdir(parents=True)
        for i in np.flatnonzero(labels == c)[:size]:
            image = Image.fromarray((pixels[i].reshape(8, 8) * 15).astype(np.uint8))
            image.resize((16, 16)).save(root / f"a {c}" / f"{i}.png")
    return root


def prepared(config, workdir):
    """The data and groups that a run of the config would train on; groups at random, which need no network."""
    with config.unlocked():
        config.regroup.clustering = "random"
    return experiment.prepare(config)


def check_parts(found, task):
    assert found["classes"].keys() == set(task.dataset.class_names)
    for part in ("train", "val", "test"):
        counts = experiment.counts_by_name(task.dataset, getattr(task.dataset, part))
        assert counts == {name: counts[part] for name, counts in found["classes"].items()}
    groups = np.bincount(task.regrouping.parent).tolist()
    assert groups == [counts["groups"] for counts in found["classes"].values()]
    assert max(groups) > 1


def noise(path, seed, height=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_what_is_told_of_images_is_what_a_run_finds(digits, tmp_path):
    found = inspect(str(digits), "ratio", 25)
    assert [counts["all"] for counts in found["classes"].values()] == list(SIZES)
    assert found["imbalance"] == round(80 / 12, 2)
    assert found["modes"] == {"L": sum(SIZES)}
    assert found["widths"] == {"min": 16, "median": 16, "max": 16}
    assert found["split"] == "stratified"
    assert found["problem"] is None
    changes = TINY | {"data.name": "images", "data.manual_dir": str(digits), "data.split": "auto"}
    changes |= {"regroup.rule": "ratio", "regroup.threshold": 25}
    task = prepared(method_config("rg", changes), tmp_path)
    assert task.dataset.name == "ten digits"
    check_parts(found, task)


def test_equal_images_conflicts_leaks_and_what_cannot_be_read(tmp_path):
    names = [(part, name, i) for part in ("train", "test") for name in ("cat", "dog") for i in range(4)]
    for seed, (part, name, i) in enumerate(names, start=10):
        noise(tmp_path / part / name / f"{i}.png", seed)
    noise(tmp_path / "train" / "cat" / "0.png", 1)
    noise(tmp_path / "train" / "dog" / "0.png", 1)
    noise(tmp_path / "test" / "cat" / "1.png", 2)
    noise(tmp_path / "test" / "cat" / "2.png", 2)
    noise(tmp_path / "train" / "dog" / "1.png", 3)
    noise(tmp_path / "test" / "dog" / "1.png", 3)
    (tmp_path / "test" / "dog" / "0.png").write_bytes(b"")
    noise(tmp_path / "train" / "cat" / "9.jpg", 5, height=400)
    whole = (tmp_path / "train" / "cat" / "9.jpg").read_bytes()
    (tmp_path / "train" / "cat" / "9.jpg").write_bytes(whole[: len(whole) // 2])
    found = inspect(str(tmp_path))
    assert found["split"] == "official"
    assert found["equal"]["in several classes"] == [["train/cat/0.png", "train/dog/0.png"]]
    assert ["test/dog/1.png", "train/dog/1.png"] in found["equal"]["in several parts"]
    assert ["test/cat/1.png", "test/cat/2.png"] not in found["equal"]["in several parts"]
    assert found["equal"]["in one class"] == [
        ["test/cat/1.png", "test/cat/2.png"],
        ["test/dog/1.png", "train/dog/1.png"],
    ]
    assert found["unreadable"].keys() == {"test/dog/0.png", "train/cat/9.jpg"}
    assert found["rows"] == 16 - 1
    text = readable(found)
    assert "equal in several classes (1, which label is right?): train/cat/0.png = train/dog/0.png" in text
    assert ", leaks): " in text
    assert "test/dog/0.png: it is empty" in text


def test_a_class_of_one_is_told_and_the_rest_too(tmp_path, capsys):
    for i in range(5):
        noise(tmp_path / "cat" / f"{i}.png", i)
    noise(tmp_path / "dog" / "0.png", 9)
    main([str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == {"cat": {"all": 5}, "dog": {"all": 1}}
    assert found["problem"].startswith("class 'dog' has 1 rows: a split into 3 parts needs 3 or more")
    assert found["next"] is None
    main([str(tmp_path)])
    assert "this cannot be trained on yet: class 'dog' has 1 rows" in capsys.readouterr().out


@pytest.fixture
def news(tmp_path, tiny_bert):
    """60 sentences whose second word tells their class, with some of them twice; and settings of a run on them."""
    table, rng = tmp_path / "news.csv", np.random.default_rng(0)
    rows = [
        f"profit {word} {' '.join(f'w{i}' for i in rng.integers(0, 50, 6))},{label}"
        for label, word, count in (("good", "rose", 40), ("bad", "fell", 16))
        for _ in range(count)
    ]
    table.write_text("\n".join(["text,label", *rows, "w1,good", "W1 ,bad", "w2,good", "w2,good"]), encoding="utf-8-sig")
    return table, {
        "data.name": "text", "data.manual_dir": str(table), "data.split": "auto", "data.max_length": 12,
        "encoder.checkpoint": str(tiny_bert), "model.name": "bert", "model.checkpoint": str(tiny_bert),
        "train.optimizer": "adamw", "train.batch_size": 8, "train.steps": 4,
    }  # fmt: skip


def test_what_is_told_of_sentences_is_what_a_run_finds(news, tmp_path):
    table, settings = news
    found = inspect(str(table))
    assert found["split"] == "grouped"
    assert found["words"] == {"min": 1, "median": 8, "max": 8}
    assert found["equal"] == {
        "in one class": [["59", "60"]],
        "in several classes": [["57", "58"]],
        "in several parts": [],
    }
    assert found["next"].endswith(f"--config=configs/text.py --config.data.manual_dir={table}")
    task = prepared(method_config("rg", settings), tmp_path / "w")
    assert task.dataset.name == "news"
    check_parts(found, task)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "a folder or table is missing"),
        (["nowhere"], "there is no folder or table nowhere"),
        (["x", "--rule=ration"], "argument --rule: invalid choice: 'ration'"),
        (["x", "--threshold=-1"], "--threshold=-1 is too low"),
        (["x", "--rule=target"], "--threshold=0 is too low: rows, 1 or more with --rule=target"),
        (["x", "--thresh=3"], "unrecognized arguments: --thresh=3; python -m rgjax.data.inspect --help"),
    ],
)
def test_bad_arguments_are_one_line(arguments, says):
    with pytest.raises(UserError) as error:
        main(arguments)
    assert says in str(error.value)


def test_a_table_must_be_of_images_or_of_sentences(tmp_path):
    (tmp_path / "own.csv").write_text("sentence,label\na,b\n")
    with pytest.raises(UserError, match="has neither of the columns path and text: name images by path"):
        inspect(str(tmp_path))


def test_the_defaults_are_those_of_a_run():
    assert FIELDS["regroup.rule"].choices == RULES
    assert (FIELDS["regroup.rule"].default, FIELDS["regroup.threshold"].default) == ("ratio", 0)
    shares = [FIELDS[f"data.{part}_fraction"].default for part in ("test", "val")]
    assert (*shares, FIELDS["data.seed"].default) == (0.2, 0.2, 0)


def test_help_and_mistakes_are_answered_without_jax():
    code = "import sys; from rgjax.data.inspect import main; main(['--help']); sys.exit('jax' in sys.modules)"
    assert "DIR_OR_TABLE" in subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout  # fmt: skip
