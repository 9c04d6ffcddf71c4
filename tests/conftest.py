"""Strict JAX with checked shapes, a private cache, several devices on request, and small downloads."""

import csv
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from jax.extend.backend import clear_backends
from jaxtyping import install_import_hook
from PIL import Image

from rgjax.console import configure_logging
from tests.support.downloads import write_ham, write_phrasebank, write_tiny_bert

# Annotated shapes and types are checked at each call. The hook works on what is imported after it.
install_import_hook(["rgjax.losses", "rgjax.metrics", "rgjax.regroup", "rgjax.sampling"], "beartype.beartype")

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


@pytest.fixture(autouse=True, scope="session")
def messages():
    """Log messages reach standard error as in a command, where `capsys` reads them."""
    configure_logging()


@pytest.fixture
def eight_devices():
    """Eight CPU devices in this process, for this test alone: `jax.devices()` lists them.

    Arrays, meshes and compiled functions made outside the test belong to the one device from before: make them inside.
    """
    yield _use_cpu_devices(8)
    _use_cpu_devices(1)


def _use_cpu_devices(count):
    clear_backends()
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()


@pytest.fixture
def shared_data():
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}, which are not in the repository")
    return folder


@pytest.fixture
def tiny_bert(tmp_path):
    return write_tiny_bert(tmp_path / "tiny-bert")


@pytest.fixture
def phrasebank_download(tmp_path):
    return write_phrasebank(tmp_path / "phrasebank")


@pytest.fixture
def ham_download(tmp_path):
    return write_ham(tmp_path / "ham")


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
