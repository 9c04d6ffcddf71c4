"""The READMEs: what they name exists, their Python runs, and (long) their commands run on small data."""

import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from rgjax.config import FIELDS, METHODS
from rgjax.data.cache import prepare
from rgjax.data.cifar100 import Cifar100
from tests.support.finished import finish

ROOT = Path(__file__).parents[1]
FILES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/README.md"))]
FILES = [name for name in FILES if not name.startswith(".")]
TEXT = {name: (ROOT / name).read_text() for name in FILES}
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # quick to compile
PLACEHOLDERS = {"METHOD", "SEED", "FILE"}

TINY = {"train.steps": 2, "train.batch_size": 16, "data.image_size": 16, "data.max_length": 16, "model.width": 8}
# Unless the command itself names others.
IMAGES = {"model.name": "resnet10", "encoder.name": "projection", "train.layer_decay": 1}


def blocks(name: str) -> list[str]:
    """The indented blocks of a README."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", TEXT[name], re.MULTILINE)]


def commands(name: str) -> list[list[str]]:
    """Its commands in words, with continued lines joined and variables of the shell expanded."""
    lines, variables = "\n".join(blocks(name)).replace("\\\n", " ").splitlines(), {}
    for line in lines:
        if match := re.match(r'([A-Z]+)="(.*)"$', line):
            variables["$" + match[1]] = match[2]
    for variable, value in variables.items():
        lines = [line.replace(variable, value) for line in lines]
    return [
        shlex.split(line, comments=True) for line in lines if re.match(r"(uv run|launch/|\S+=\S+ launch/|sbatch)", line)
    ]


def source_of(words: list[str]) -> list[Path]:
    """The files that define a command's flags."""
    if "-m" in words:
        module = words[words.index("-m") + 1]
        spec = importlib.util.find_spec(module)
        assert spec, f"no module {module}"
        path = Path(str(spec.origin))
        return [*path.parent.glob("*.py")] if path.name == "__init__.py" else [path]
    if "launch/" in " ".join(words):
        return [ROOT / "rgjax" / "main.py"]
    return [ROOT / word for word in words if word.endswith(".py")]


def test_all_readmes_are_read():
    assert {"README.md", "configs/README.md", "rgjax/README.md", "rgjax/data/README.md"} <= set(FILES)
    assert sum(len(commands(name)) for name in FILES) > 25


@pytest.mark.parametrize("name", FILES)
def test_what_a_readme_names_exists(name):
    text = TEXT[name]
    for field in re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)=", text):
        assert field in FIELDS, field
    for config, method in re.findall(r"--config=(configs/\w+\.py)(?::(\w+))?", text):
        assert (ROOT / config).is_file(), config
        assert not method or method in METHODS or method in PLACEHOLDERS, method
    for path in re.findall(r"`((?:tests|configs|rgjax|launch)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), link
    for word in re.findall(r"(?:(?:^| )-m |python )(tests[./]\w+|rgjax[./][\w.]+)", text):
        assert importlib.util.find_spec(word) or (ROOT / word).exists(), word


@pytest.mark.parametrize("name", FILES)
def test_flags_of_commands_exist(name):
    for words in commands(name):
        if "pytest" in words or not any("rgjax" in word or "tests" in word or "launch/" in word for word in words):
            continue
        source = "".join(path.read_text() for path in source_of(words))
        start = words.index("-m") if "-m" in words else 0
        for word in words[start:]:
            flag = word.partition("=")[0]
            if flag.startswith("--") and not re.match(r"--(config|with|nodes)\b", flag):
                pattern = "[-_]".join(re.split("[-_]", flag[2:]))
                assert re.search(rf'"(--)?{pattern}"', source), f"{' '.join(words)}: no flag {flag}"


@pytest.mark.parametrize("name", FILES)
def test_python_blocks_compile(name):
    for block in blocks(name):
        if re.match(r"(from|import|def|\w+ += )", block):
            compile(block, name, "exec")


def test_python_blocks_around_a_classifier_run():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [60, 12])
    features = rng.normal(size=(72, 3)).astype(np.float32) + labels[:, None].astype(np.float32)
    for name in ("README.md", "rgjax/regroup/README.md"):
        for block in blocks(name):
            if not re.match(r"from (rgjax|sklearn)", block):
                continue
            values = {"X": features, "X_new": features, "y": labels, "features": features, "labels": labels}
            setup, _, rest = block.partition("class_logits =")
            exec(setup, values)  # by parts, because the width of the logits follows from the groups
            if rest:
                values["logits"] = rng.normal(size=(5, values["grouping"].num_pseudo_classes))
                exec("class_logits =" + rest, values)
                assert values["class_logits"].shape == (5, 2)


@pytest.fixture
def prepared_cifar(tmp_path, monkeypatch):
    """A folder with a prepared CIFAR-100 of six training images and one test image of each class."""
    rng = np.random.default_rng(0)
    names = ["apple", *(f"fine{i}" for i in range(1, 100))]
    files = {"fine_label_names.txt": "\n".join(names).encode() + b"\n"}
    files["coarse_label_names.txt"] = "\n".join(f"coarse{i}" for i in range(20)).encode() + b"\n"
    for name, count in (("train", 600), ("test", 100)):
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
    prepare(Cifar100(data_dir=str(tmp_path / "prepared"), file_format="array_record"), tmp_path)
    return tmp_path / "prepared"


@pytest.fixture
def places(tmp_path, ham_download, phrasebank_download, tiny_bert):
    """What stands for the READMEs' placeholders."""
    (phrasebank_download / "Sentences_50Agree.txt").rename(ham_download / "Sentences_50Agree.txt")
    pixels, labels = load_digits(return_X_y=True)
    for c in range(10):  # ten classes, from 80 images to 8
        for i in np.flatnonzero(labels == c)[: 80 - 8 * c]:
            path = tmp_path / "PHOTOS" / f"the {c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels[i].reshape(8, 8) * 15).astype(np.uint8)).save(path)
    lines = (ham_download / "Sentences_50Agree.txt").read_text().splitlines()
    (tmp_path / "REVIEWS.csv").write_text("\n".join(["text,label", *(line.replace("@", ",") for line in lines)]))
    authored = [
        "sentence,sentiment,author",
        *(f"{line.replace('@', ',')},{line[-3:]} {i % 9}" for i, line in enumerate(lines)),
    ]
    (tmp_path / "COMMENTS.csv").write_text("\n".join(authored))
    finish(tmp_path / "DIR" / "run", "rg")
    return {
        "DOWNLOAD": ham_download, "MINILM": tiny_bert, "METHOD": "ce", "SEED": 0, "DIR": tmp_path / "DIR",
        "NEW_PHOTOS": tmp_path / "PHOTOS" / "the 3", "PHOTOS": tmp_path / "PHOTOS",
        "NEW_REVIEWS.csv": tmp_path / "REVIEWS.csv", "REVIEWS.csv": tmp_path / "REVIEWS.csv",
        "COMMENTS.csv": tmp_path / "COMMENTS.csv",
        "runs": tmp_path / "runs", "sweeps": tmp_path / "sweeps", "exported": tmp_path / "exported",
    }  # fmt: skip


def run(words: list[str], places: dict) -> str:
    """A command on small data and a small network; its standard output."""
    pattern = "|".join(rf"(?<![\w/.]){re.escape(name)}(?![\w])" for name in places)
    words = [re.sub(pattern, lambda match: str(places[match[0]]), word) for word in words[words.index("-m") :]]
    if words[1] in ("rgjax.main", "rgjax.sweep"):
        line = " ".join(words)
        text = {"model.checkpoint": places["MINILM"], "encoder.checkpoint": places["MINILM"]}
        small = text if re.search(r"(phrasebank|text|paper)\.py", line) else IMAGES
        words += [f"--config.{name}={value}" for name, value in small.items() if f"config.{name}=" not in line]
        words += [f"--config.{name}={value}" for name, value in TINY.items()]
        words += [f"--config.data.data_dir={places['prepared']}"] if "prepared" in places else []
    if words[1] == "rgjax.sweep":
        words += ["--methods=ce", "--seeds=1"]
    process = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=500
    )
    assert process.returncode == 0, f"{' '.join(words)}\n{process.stderr}"
    return process.stdout


def needs_more(words: list[str]) -> bool:
    """Whether a command needs hardware, a cluster or hours: its flags alone are checked."""
    return "-m" not in words or any(
        word in ("rgjax.preflight", "--distributed", "--rehearse")
        or word.startswith(("tests.", "--launcher=", "launch/"))
        for word in words
    )


@pytest.mark.long
@pytest.mark.parametrize("name", ["rgjax/README.md", "rgjax/data/README.md"])
def test_commands_run(name, places):
    ran = [run(words, places) for words in commands(name) if not needs_more(words)]
    assert len(ran) == {"rgjax/README.md": 2, "rgjax/data/README.md": 15}[name]


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(set(FILES) - {"rgjax/README.md", "rgjax/data/README.md"}))
def test_commands_run_over_many_data_sets(name, places, prepared_cifar):
    for words in commands(name):
        if not needs_more(words):
            assert run(words, places | {"prepared": prepared_cifar}) is not None


@pytest.mark.long
def test_the_first_command_and_the_sweep_of_digits(places):
    first = next(words for words in commands("README.md") if "rgjax.main" in words)
    assert "balanced accuracy" in run(first, places)
    sweep, report, *_ = commands("rgjax/sweep/README.md")
    assert re.search(r"(\d+) of \1 runs done", run(sweep, places))
    run(report, places)
    folder = places["sweeps"] / "digits"
    for name in ("report.html", "table.md", "table.tex", "results.parquet"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "figures").glob("*.png"))
