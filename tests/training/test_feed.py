"""Streamed inputs: the bits of resident ones, and no more than a window of them in memory."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax.config import method_config
from rgjax.data import Dataset
from rgjax.data.augment import to_lanes
from rgjax.models.factory import padded
from rgjax.models.layers import BatchNorm
from rgjax.models.packing import mean_tokens
from rgjax.models.resnet import Numerics, ResNet
from rgjax.models.tokenizer import Tokens
from rgjax.preflight.program import lowered_program, outline_of
from rgjax.regroup import Regrouping
from rgjax.sampling.samplers import random_oversampling
from rgjax.sharding import AXIS, make_mesh
from rgjax.storage.files import cache_dir
from rgjax.training import feed, trainer
from rgjax.training.feed import HostData, device_memory, steps_per_window, stream, streams
from rgjax.training.trainer import Task, Trial
from tests.training.test_loop import PLAN

ROOT = Path(__file__).parents[1]
ROWS, BATCH, CLASSES, SIZE = 700, 8, 3, 8  # of the rows 520 are for validation: three batches
IMAGE = 256  # bytes of one, in lanes
SETTINGS = {"train.batch_size": BATCH, "train.steps": 27, "train.checkpoint_steps": 7, "train.eval_steps": 9,
            "train.lr": 0.1, "trackers": ""}  # fmt: skip


class Dense(nnx.Module):
    """A network that compiles in no time: of images, or of the mean of tokens' embeddings."""

    def __init__(self, words: int, rng: np.random.Generator):
        def drawn(*shape):
            return nnx.Param(jnp.asarray(rng.standard_normal(shape, np.float32) / np.float32(8)))

        self.embedding = drawn(words, 16) if words else None
        self.hidden = drawn(16 if words else SIZE * SIZE * 3, 16)
        self.norm = BatchNorm(16, axis=AXIS)
        self.head = drawn(16, padded(CLASSES))

    def __call__(self, x, train=False, key=None):
        if self.embedding is not None:
            x = mean_tokens(self.embedding[...][x.ids], x)
        hidden = x.reshape(x.shape[0], -1) @ self.hidden[...]
        return jax.nn.relu(self.norm(hidden[:, None, None], train)[:, 0, 0]) @ self.head[...]


class OnDisk:
    """Images that are never read as a whole."""

    def __init__(self, images):
        self._images, self.most = images, 0
        self.shape, self.dtype, self.ndim = images.shape, images.dtype, images.ndim

    def __len__(self):
        return len(self._images)

    def __array__(self, *_, **__):
        raise AssertionError("all inputs are read into memory")

    def __getitem__(self, rows):
        found = self._images[rows]
        self.most = max(self.most, len(found))
        return found


def images():
    return np.random.default_rng(0).integers(0, 256, (ROWS, SIZE, SIZE, 3), np.uint8)


def tokens():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 13, ROWS, np.int32)
    return Tokens(np.where(np.arange(12) < lengths[:, None], rng.integers(0, 50, (ROWS, 12), np.int32), 0), lengths)


def train(inputs, folder, where, models, name="resnet34"):
    """The logits of trials that are oversampled, so that an epoch holds a row several times."""
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), (500, 120, 80))
    train, val, test = np.split(np.random.default_rng(1).permutation(ROWS).astype(np.int32), (120, 640))
    dataset = Dataset("d", np.empty(0), labels, ("a", "b", "c"), labels.astype(str), train, val, test, "")
    pool = random_oversampling(labels[train], labels[train], 0)
    own = labels[train]
    task = Task(dataset, inputs, train, own, pool, Regrouping.identity(own, CLASSES), own, None, None)
    config = method_config("ros", SETTINGS | {"data.placement": where, "model.name": name})
    trials = []
    for seed in range(len(models)):
        own = config.copy_and_resolve_references()
        own.seed = seed
        trials.append(Trial(own, folder / f"{where}-{seed}"))
    trained = trainer.train(task, trials, models)
    assert not trained.lost
    return [logits[part] for logits in trained.logits for part in ("val", "test")]


def small_windows(row_bytes):
    feed.WINDOW_BYTES, feed._BLOCK_BYTES = 4 * BATCH * row_bytes, 10 * row_bytes


@pytest.fixture
def interrupted(monkeypatch):
    """Streamed in windows of 4 of an epoch's 15 steps, cut off within a window and within an epoch."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", None)
    monkeypatch.setattr(feed, "_BLOCK_BYTES", None)

    def train_twice(inputs, row_bytes, *arguments):
        small_windows(row_bytes)
        fit = trainer.fit

        def cut(run_steps, state, plan, **others):
            assert plan.steps_per_window == 4
            return fit(run_steps, state, replace(plan, total_steps=18), **others)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "fit", cut)
            train(inputs, *arguments)
        return train(inputs, *arguments)

    return train_twice


def assert_same_bits(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert np.ptp(a) > 0
        np.testing.assert_array_equal(a, b)


def dense(words=0):
    return [Dense(words, np.random.default_rng(0))]


def resnet():
    norm, rng = lambda features: BatchNorm(features, axis=AXIS), np.random.default_rng(0)
    return [ResNet("resnet10", padded(CLASSES), width=4, numerics=Numerics(norm=norm), rng=rng)]


@pytest.mark.parametrize("models", [dense, pytest.param(resnet, marks=pytest.mark.long)])
def test_streamed_images_leave_the_same_bits_and_are_read_in_parts(models, tmp_path, interrupted):
    expected = train(images(), tmp_path, "device", models())
    kept = OnDisk(images())
    assert_same_bits(expected, interrupted(kept, IMAGE, tmp_path, "stream", models()))
    assert 0 < kept.most <= 10


def test_streamed_sentences_leave_the_same_bits(tmp_path, interrupted):
    expected = train(tokens(), tmp_path, "device", dense(50), "bert")
    assert_same_bits(expected, interrupted(tokens(), 13 * 4, tmp_path, "stream", dense(50), "bert"))


DEVICES = """
import sys
from pathlib import Path
import jax
from rgjax.sharding import make_mesh
from tests.training.test_feed import BATCH, IMAGE, assert_same_bits, dense, images, small_windows, train

folder = Path(sys.argv[1])
assert dict(make_mesh(jax.devices(), trials=2, batch_size=BATCH).shape) == {"trial": 2, "data": 2}
expected = train(images(), folder, "device", dense() * 2)
small_windows(IMAGE)
assert_same_bits(expected, train(images(), folder, "stream", dense() * 2))
"""


def test_a_streamed_population_on_four_devices_leaves_the_same_bits(tmp_path):
    """Its trials have row orders of their own, and each shares its batches between two devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache_dir() / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    command = [sys.executable, "-c", DEVICES, str(tmp_path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_windows_arrive_in_order_row_by_row(monkeypatch):
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 3 * 36)
    rng = np.random.default_rng(0)
    tokens = Tokens(rng.integers(0, 99, (40, 8), np.int32), rng.integers(1, 8, 40, np.int32))
    rows = rng.integers(0, 40, (9, 7))
    mesh = make_mesh(jax.devices()[:1], trials=1, batch_size=1)
    windows = list(stream(HostData(tokens), lambda window: rows[window], range(2, 9), 7, mesh))
    assert len(windows) == 7
    for window, own in zip(windows, rows[2:], strict=True):
        np.testing.assert_array_equal(window.ids, tokens.ids[own])
        np.testing.assert_array_equal(window.lengths, tokens.lengths[own])


def blank(count, size):
    return HostData(np.broadcast_to(np.uint8(0), (count, size, size, 3)), to_lanes)


def test_what_takes_half_of_the_memory_is_streamed():
    host = blank(1000, 32)
    assert host.nbytes == 1000 * 3072
    assert [streams("auto", host, 1, memory) for memory in (2 * 3_072_000, 2 * 3_072_000 - 1)] == [False, True]
    assert not streams("auto", host, 4, 2 * 3_072_000 // 4)
    assert streams("stream", host, 1, 2**60)
    assert not streams("device", host, 1, 1)
    assert 2**28 < device_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("batch", [2, 256, 4096])
@pytest.mark.parametrize(("trials", "devices"), [(1, 1), (8, 1), (2, 4)])
def test_a_window_is_bounded_in_bytes_or_one_step(batch, trials, devices):
    host, plan = blank(2_000_000, 224), replace(PLAN, batch_size=batch, steps_per_epoch=1000)
    steps = steps_per_window(host, plan, trials=trials, devices=devices)
    a_step = trials * batch * 224 * 224 * 3 / devices
    assert steps == 1 or steps * a_step <= feed.WINDOW_BYTES
    windows = -(-1000 // steps)
    assert windows * steps - 1000 < windows
    assert steps == 1000 or (windows - 1) * feed.WINDOW_BYTES < 1000 * a_step * 1.5


def test_a_program_for_hardware_with_little_memory_takes_a_window():
    changes = {"data.name": "ham10000", "data.image_size": 224, "model.name": "resnet10", "model.width": 4}
    config, sizes = method_config("ce", changes), []
    for memory in (2**40, 2**30):
        traced, _ = lowered_program(config, outline_of(config), jax.devices()[:1], "cpu", memory)
        sizes.append(max(leaf.size for leaf in jax.tree.leaves(traced.in_avals)))
    assert sizes[0] == 10_015 * 224 * 224 * 3
    assert sizes[1] <= feed.WINDOW_BYTES
