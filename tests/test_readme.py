"""The README's way from one run to the whole paper, on data and networks that are small enough for a test."""

import csv
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from rgjax.data.cifar100 import load
from tests.support.data import data_config

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # quick to compile
SMALL = ["--config.model.name=resnet10", "--config.model.width=8", "--config.data.image_size=16"]
TINY = [
    "--config.train.steps=2",
    "--config.train.batch_size=16",
    "--config.model.width=8",
    "--config.data.image_size=16",
    "--config.data.max_length=16",
]


def commands(title: str) -> list[list[str]]:
    chapter = (ROOT / "README.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0].replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    (uv run python -m .*)$", chapter, re.MULTILINE)]


@pytest.fixture
def prepared_cifar(tmp_path, monkeypatch):
    """A folder with a prepared CIFAR-100 of two training images and one test image of each class."""
    rng = np.random.default_rng(0)
    names = ["apple", *(f"fine{i}" for i in range(1, 100))]
    files = {"fine_label_names.txt": "\n".join(names).encode() + b"\n"}
    files["coarse_label_names.txt"] = "\n".join(f"coarse{i}" for i in range(20)).encode() + b"\n"
    for name, count in (("train", 200), ("test", 100)):
        records = rng.integers(0, 256, (count, 2 + 3072), np.uint8)
        records[:, 0], records[:, 1] = 0, np.arange(count) % 100
        files[f"{name}.bin"] = records.tobytes()
    archive = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda self, url: archive)
    load(data_config("cifar100", manual_dir=str(tmp_path), data_dir=str(tmp_path / "prepared")))
    return tmp_path / "prepared"


def run(command, tmp_path, *more, exits=0):
    words = [re.sub(r"\b(runs|sweeps|exported|NEW_|PHOTOS|REVIEWS)", rf"{tmp_path}/\1", word) for word in command]
    assert words[:3] == ["uv", "run", "python"]
    process = subprocess.run(
        [sys.executable, *words[3:], *more],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert process.returncode == exits, process.stderr
    return process.stdout


@pytest.mark.long
def test_one_run_a_sweep_and_its_report(tmp_path):
    one, sweep, report, *_ = commands("From one run to the whole paper")
    assert "balanced accuracy" in run(one, tmp_path, *SMALL, "--config.train.epochs=1")
    assert "4 of 4 runs done" in run(sweep, tmp_path, *SMALL, "--methods=ros,la", "--seeds=1")
    run(report, tmp_path)
    folder = tmp_path / "sweeps" / "digits"
    for name in ("report.html", "table.md", "table.tex", "results.parquet"):
        assert (folder / name).stat().st_size > 0
    assert "complete: 4 of 4 runs done" in (folder / "report.html").read_text()
    assert list((folder / "figures").glob("*.png"))


@pytest.mark.soak
def test_the_paper(tmp_path, prepared_cifar, ham_download, phrasebank_download, tiny_bert):
    _, _, _, dry, paper, *_ = commands("From one run to the whole paper")
    (phrasebank_download / "Sentences_50Agree.txt").rename(ham_download / "Sentences_50Agree.txt")
    places = {"--config.data.manual_dir=DOWNLOAD": f"--config.data.manual_dir={ham_download}"}
    dry, paper = ([places.get(word, word) for word in command] for command in (dry, paper))
    more = [*TINY, f"--config.data.data_dir={prepared_cifar}", f"--config.model.checkpoint={tiny_bert}"]
    more += ["--methods=ce", "--seeds=1"]
    cost = run(dry, tmp_path, *more)
    assert "unknown" not in cost, cost
    assert not (tmp_path / "sweeps").exists()
    assert "4 of 4 runs done" in run(paper, tmp_path, *more)
    studies = {path.name for path in (tmp_path / "sweeps" / "paper").iterdir() if path.is_dir()}
    assert studies >= {"cifar100_binary", "ham10000_binary", "ham10000", "phrasebank"}


@pytest.mark.soak
def test_photos_of_ones_own(tmp_path):
    pixels, labels = load_digits(return_X_y=True)
    for c in range(10):  # ten classes, from 80 images to 8
        for i in np.flatnonzero(labels == c)[: 80 - 8 * c]:
            path = tmp_path / "PHOTOS" / f"the {c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels[i].reshape(8, 8) * 15).astype(np.uint8)).save(path)
    shutil.copytree(tmp_path / "PHOTOS" / "the 3", tmp_path / "NEW_PHOTOS")
    (tmp_path / "NEW_PHOTOS" / "empty.png").touch()
    inspect, main, report, predict, *_, export = commands("Data of your own")
    seen = run(inspect, tmp_path)
    assert f"--config=configs/images.py '--config.data.manual_dir={tmp_path}/PHOTOS'".replace("'", "") in seen
    assert "10 classes" in run(
        main, tmp_path, *TINY, "--config.model.name=resnet10", "--config.encoder.name=projection"
    )
    run(report, tmp_path)
    found = list(csv.DictReader(io.StringIO(run(predict, tmp_path, exits=2))))
    assert len(found) == 56
    assert all(row["neighbor_1"].startswith(row["group_class"]) for row in found)
    np.testing.assert_allclose([sum(float(row[f"p_the {c}"]) for c in range(10)) for row in found], 1, atol=1e-4)
    run(export, tmp_path)
    assert (tmp_path / "exported" / "photos" / "manifest.json").is_file()


@pytest.mark.soak
def test_sentences_of_ones_own(tmp_path, phrasebank_download, tiny_bert):
    lines = (phrasebank_download / "Sentences_50Agree.txt").read_text().splitlines()
    for name in ("REVIEWS.csv", "NEW_REVIEWS.csv"):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows([["text", "label"], *(line.split("@") for line in lines)])
    inspect, main, report, predict, _ = commands("Data of your own")[4:]
    assert "--config=configs/text.py" in run(inspect, tmp_path)
    bert = [f"--config.{room}.checkpoint={tiny_bert}" for room in ("model", "encoder")]
    assert "3 classes" in run(main, tmp_path, *TINY, *bert)
    run(report, tmp_path)
    assert len(run(predict, tmp_path).splitlines()) == 1 + len(lines)
