"""The README's way from one run to the whole paper, on data and networks that are small enough for a test."""

import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rgjax.data.cifar100 import load

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


def commands() -> list[list[str]]:
    chapter = (ROOT / "README.md").read_text().split("## From one run to the whole paper\n")[1]
    return [shlex.split(line) for line in re.findall(r"^    (uv run .*)$", chapter.split("\n\n")[0], re.MULTILINE)]


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
    load(image_size=32, manual_dir=str(tmp_path), data_dir=str(tmp_path / "prepared"))
    return tmp_path / "prepared"


def run(command, tmp_path, *more):
    words = [word.replace("runs/", f"{tmp_path}/runs/").replace("sweeps/", f"{tmp_path}/sweeps/") for word in command]
    assert words[:3] == ["uv", "run", "python"]
    process = subprocess.run(
        [sys.executable, *words[3:], *more],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.long
def test_one_run_a_sweep_and_its_report(tmp_path):
    one, sweep, report, *_ = commands()
    assert "balanced accuracy" in run(one, tmp_path, *SMALL, "--config.train.epochs=1")
    assert "4 of 4 runs done" in run(sweep, tmp_path, *SMALL, "--methods=ros,la", "--seeds=1")
    run(report, tmp_path)
    folder = tmp_path / "sweeps" / "digits"
    for name in ("report.html", "table.md", "table.tex", "results.parquet"):
        assert (folder / name).stat().st_size > 0
    assert "complete: 4 of 4 runs done" in (folder / "report.html").read_text()
    assert list((folder / "figures").glob("*.png"))


@pytest.mark.long
def test_the_paper(tmp_path, prepared_cifar, ham_download, phrasebank_download, tiny_bert):
    *_, dry, paper = commands()
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
