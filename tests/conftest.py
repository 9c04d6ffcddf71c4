"""Strict JAX, a private cache, and a small HAM10000 download."""

import csv
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Half of the tests' time went into optimizing programs that run for milliseconds. Whole commands, in processes of their
# own, are compiled as a user's are.
jax.config.update("jax_disable_most_optimizations", True)

# The same few examples in each call; `HYPOTHESIS_PROFILE=long uv run pytest -m hypothesis` searches for an hour.
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache; the parallel ones share theirs, compiled programs included."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    patch = pytest.MonkeyPatch()
    patch.setenv("RGJAX_CACHE", str(folder))
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # most programs of the tests are small
    yield
    patch.undo()


@pytest.fixture
def shared_data():
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}, which are not in the repository")
    return folder


@pytest.fixture
def tiny_bert(tmp_path):
    return write_tiny_bert(tmp_path / "tiny-bert")


def write_tiny_bert(folder):
    """A random BERT checkpoint with a vocabulary of 60 words."""
    shutil.copytree(Path(__file__).parent / "models" / "checkpoints" / "bert", folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "profit", "rose", "fell", "flat", "."]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"w{i}" for i in range(60 - len(words)))]))
    return folder


@pytest.fixture
def phrasebank_download(tmp_path):
    return write_phrasebank(tmp_path / "phrasebank")


def write_phrasebank(folder):
    """A folder with 120 short sentences whose second word tells their label: 72 neutral, 30 positive, 18 negative."""
    rng = np.random.default_rng(0)
    lines = []
    for label, word, count in (("neutral", "flat", 72), ("positive", "rose", 30), ("negative", "fell", 18)):
        for _ in range(count):
            rest = " ".join(f"w{i}" for i in rng.integers(0, 50, rng.integers(1, 9)))
            lines.append(f"profit {word} {rest} .@{label}")
    folder.mkdir()
    (folder / "Sentences_50Agree.txt").write_text("\n".join(rng.permutation(lines)))
    return folder


@pytest.fixture
def ham_download(tmp_path):
    return write_ham(tmp_path / "ham")


def write_ham(folder):
    """A folder laid out as the public download: 84 images of 42 lesions, the classes' sizes 24 to 6."""
    rng = np.random.default_rng(0)
    sizes = {"nv": 24, "mel": 16, "bkl": 14, "bcc": 10, "akiec": 8, "vasc": 6, "df": 6}
    rows = []
    for dx, size in sizes.items():
        for i in range(size):
            number = len(rows)
            path = folder / f"HAM10000_images_part_{1 + number % 2}" / f"ISIC_{number:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
            lesion = f"HAM_{dx}_{i // 2}"
            rows.append([lesion, path.stem, dx, "histo", "" if number == 3 else "80.0", "male", "scalp"])
    with open(folder / "HAM10000_metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"])
        writer.writerows(rows)
    return folder


@pytest.fixture
def ham_with_test(ham_download):
    """The same with the ISIC challenge's test set: two images a class, of which the synthetic one is missing."""
    folder = ham_download / "ISIC2018_Task3_Test_Images"
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows = []
    for number, dx in enumerate([*("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df") * 2, "nv"]):
        identity = "ISIC_0035068" if number == 14 else f"ISIC_{34524 + number:07d}"
        rows.append([f"HAMTEST_{number:07d}", identity, dx, "histo", "50.0", "female", "back", "rosendahl"])
        if number < 14:
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{identity}.jpg")
    with open(ham_download / "ISIC2018_Task3_Test_GroundTruth.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"])
        writer.writerows(rows)
    return ham_download
