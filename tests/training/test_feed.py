"""Streamed training data: the bits of resident data, and no more than a chunk of it in memory."""

import os
from dataclasses import replace

import jax
import numpy as np
import pytest

from rgjax.config import method_config
from rgjax.data import Dataset
from rgjax.data.augment import to_lanes
from rgjax.models.factory import padded
from rgjax.models.layers import BatchNorm
from rgjax.models.resnet import Numerics
from rgjax.models.tokenizer import Tokens
from rgjax.preflight.program import lowered_program, spec_task
from rgjax.regroup import Regrouping
from rgjax.sampling.samplers import random_oversampling
from rgjax.sharding import AXIS, make_mesh
from rgjax.training import feed, trainer
from rgjax.training.feed import HostData, device_memory, steps_per_chunk, stream, streams
from rgjax.training.task import Task
from rgjax.training.trainer import Trial
from tests.support.programs import BATCH, CLASSES, Dense, assert_same_bits, images, resnet, tokens
from tests.support.trainings import SCHEDULE

EXAMPLES = 700  # of which 520 are for validation: three batches
IMAGE_BYTES = 256  # of one image, in lanes
SETTINGS = {"train.batch_size": BATCH, "train.steps": 27, "train.checkpoint_steps": 7, "train.eval_steps": 9,
            "train.lr": 0.1, "trackers": ""}  # fmt: skip


class OnDisk:
    """Images that are never read as a whole."""

    def __init__(self, images):
        self._images, self.most = images, 0
        self.shape, self.dtype, self.ndim = images.shape, images.dtype, images.ndim

    def __len__(self):
        return len(self._images)

    def __array__(self, *_, **__):
        raise AssertionError("all inputs are read into memory")

    def __getitem__(self, indices):
        examples = self._images[indices]
        self.most = max(self.most, len(examples))
        return examples


def train(inputs, folder, placement, models, name="resnet34"):
    """The logits of oversampled trials, so that an epoch holds an example several times."""
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), (500, 120, 80))
    train, val, test = np.split(np.random.default_rng(1).permutation(EXAMPLES).astype(np.int32), (120, 640))
    dataset = Dataset("d", np.empty(0), labels, ("a", "b", "c"), labels.astype(str), train, val, test, "")
    pool = random_oversampling(labels[train], labels[train], 0)
    labels = labels[train]
    task = Task(dataset, inputs, train, labels, pool, Regrouping.identity(labels, CLASSES), labels)
    config = method_config("ros", SETTINGS | {"data.placement": placement, "model.name": name})
    trials = []
    for seed in range(len(models)):
        changed = config.copy_and_resolve_references()
        changed.seed = seed
        trials.append(Trial(changed, folder / f"{placement}-{seed}"))
    mesh = make_mesh(jax.devices()[: 2 * len(models)], trials=len(models), batch_size=BATCH)
    outcomes, _ = trainer.train([task] * len(trials), trials, models, mesh)
    assert [outcome.error for outcome in outcomes] == [None] * len(models)
    logits = [outcome.logits[split] for outcome in outcomes for split in ("val", "test")]
    assert all(np.ptp(values) > 0 for values in logits)
    return logits


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 of an epoch's 15 steps, read in blocks of 10 examples."""

    def patch(example_bytes):
        monkeypatch.setattr(feed, "CHUNK_BYTES", 4 * BATCH * example_bytes)
        monkeypatch.setattr(feed, "_BLOCK_BYTES", 10 * example_bytes)

    return patch


def train_interrupted(monkeypatch, *arguments):
    """Train in two parts: the first ends within a chunk and within an epoch."""
    fit = trainer.fit

    def cut(run_steps, state, schedule, *rest, **options):
        assert schedule.steps_per_chunk == 4
        return fit(run_steps, state, replace(schedule, total_steps=18), *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", cut)
        train(*arguments)
    return train(*arguments)


def conv_net():
    return resnet(padded(CLASSES), numerics=Numerics(norm=lambda features: BatchNorm(features, axis=AXIS)))


@pytest.mark.parametrize("make", [Dense, pytest.param(conv_net, marks=pytest.mark.long)])
def test_streamed_images_give_the_same_bits_and_are_read_in_parts(make, tmp_path, small_chunks, monkeypatch):
    expected = train(images(), tmp_path, "device", [make()])
    on_disk = OnDisk(images())
    small_chunks(IMAGE_BYTES)
    assert_same_bits(expected, train_interrupted(monkeypatch, on_disk, tmp_path, "stream", [make()]))
    assert 0 < on_disk.most <= 10


@pytest.mark.long
def test_streamed_sentences_give_the_same_bits(tmp_path, small_chunks, monkeypatch):
    expected = train(tokens(), tmp_path, "device", [Dense(50)], "bert")
    small_chunks(13 * 4)
    streamed = train_interrupted(monkeypatch, tokens(), tmp_path, "stream", [Dense(50)], "bert")
    assert_same_bits(expected, streamed)


@pytest.mark.long
def test_a_streamed_population_on_four_devices_gives_the_same_bits(eight_devices, tmp_path, small_chunks):
    """Each trial draws its own batches, and shares them between two devices."""
    assert dict(make_mesh(jax.devices()[:4], trials=2, batch_size=BATCH).shape) == {"trial": 2, "data": 2}
    expected = train(images(), tmp_path, "device", [Dense(), Dense()])
    small_chunks(IMAGE_BYTES)
    assert_same_bits(expected, train(images(), tmp_path, "stream", [Dense(), Dense()]))


def test_chunks_arrive_in_order_example_by_example(monkeypatch):
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 3 * 36)
    rng = np.random.default_rng(0)
    tokens = Tokens(rng.integers(0, 99, (40, 8), np.int32), rng.integers(1, 8, 40, np.int32))
    indices = rng.integers(0, 40, (9, 7))
    mesh = make_mesh(jax.devices()[:1], trials=1, batch_size=1)
    chunks = list(stream(HostData(tokens), lambda chunk: indices[chunk], range(2, 9), 7, mesh))
    assert len(chunks) == 7
    for chunk, expected in zip(chunks, indices[2:], strict=True):
        np.testing.assert_array_equal(chunk.ids, tokens.ids[expected])
        np.testing.assert_array_equal(chunk.lengths, tokens.lengths[expected])


def blank(count, size):
    return HostData(np.broadcast_to(np.uint8(0), (count, size, size, 3)), to_lanes)


def test_data_that_exceeds_half_of_the_memory_is_streamed():
    host = blank(1000, 32)
    assert (len(host), host.nbytes) == (1000, 1000 * 3072)
    assert [streams("auto", host, 1, memory) for memory in (2 * 3_072_000, 2 * 3_072_000 - 1)] == [False, True]
    assert not streams("auto", host, 4, 2 * 3_072_000 // 4)
    assert streams("stream", host, 1, 2**60)
    assert not streams("device", host, 1, 1)
    assert 2**28 < device_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("batch", [2, 256, 4096])
@pytest.mark.parametrize(("trials", "devices"), [(1, 1), (8, 1), (2, 4)])
def test_a_chunk_is_bounded_in_bytes_or_one_step(batch, trials, devices):
    host, schedule = blank(2_000_000, 224), replace(SCHEDULE, batch_size=batch, steps_per_epoch=1000)
    steps = steps_per_chunk(host, schedule, trials=trials, devices=devices)
    step_bytes = trials * batch * 224 * 224 * 3 / devices
    assert steps == 1 or steps * step_bytes <= feed.CHUNK_BYTES
    chunks = -(-1000 // steps)
    assert chunks * steps - 1000 < chunks
    assert steps == 1000 or (chunks - 1) * feed.CHUNK_BYTES < 1000 * step_bytes * 1.5


@pytest.mark.long
def test_the_program_for_a_small_memory_takes_a_chunk():
    changes = {"data.name": "ham10000", "data.image_size": 224, "model.name": "resnet10", "model.width": 4}
    config, sizes = method_config("ce", changes), []
    for memory in (2**40, 2**30):
        traced, _ = lowered_program(config, spec_task(config), jax.devices()[:1], "cpu", memory)
        sizes.append(max(leaf.size for leaf in jax.tree.leaves(traced.in_avals)))
    assert sizes[0] == 10_015 * 224 * 224 * 3
    assert sizes[1] <= feed.CHUNK_BYTES
