"""Devices: batches over several of them, and what this process finds."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rgjax import sharding
from rgjax.config import method_config
from rgjax.encoders.pretrained import pretrained_images
from rgjax.encoders.text import encode_tokens
from rgjax.errors import UserError
from rgjax.models.bert import Bert, bert_config
from rgjax.models.factory import compute_dtype
from rgjax.models.families import open_pretrained
from rgjax.models.packing import mean_tokens
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import Tokens
from rgjax.sharding import OnDevices, in_batches, over_devices, require_devices


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (2, 5), (1, 1)])
def test_batches_hold_every_index_once_and_then_the_first_ones(count, size):
    batches = in_batches(np.arange(10, 10 + count), size)
    assert batches.shape[1] == size
    assert (batches.size - count) < size
    np.testing.assert_array_equal(batches.ravel()[:count], np.arange(10, 10 + count))
    assert set(batches.ravel()) == set(range(10, 10 + count))


def test_outputs_are_in_the_order_of_the_batches():
    batches = [(np.full((2, 3), i, np.float32), np.full(2, 10 * i, np.float32)) for i in range(4)]
    outputs = over_devices(lambda w, batch: w * batch[0] + batch[1][:, None], jnp.float32(2), batches, what="", total=7)
    np.testing.assert_array_equal(outputs[:, 0], np.repeat(np.arange(4) * 12.0, 2)[:7])


@pytest.mark.parametrize(("free", "size"), [(None, 3), (2**30, 64), (2 * 4 * 512 * 20, 16), (0, 1)])
def test_batch_fits_in_half_of_the_free_memory(free, size, monkeypatch):
    monkeypatch.setattr(sharding, "free_memory", lambda: free)
    doubled = OnDevices(lambda w, batch: w * batch, jnp.float32(2))  # 512 float32 of output per example
    assert doubled.batch_size(lambda n: jax.ShapeDtypeStruct((n, 512), np.float32), cached=3, most=64) == size


@pytest.mark.long
def test_features_do_not_depend_on_the_number_of_devices(eight_devices, monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 18, 150, np.int32)
    tokens = Tokens(rng.integers(1, 60, (150, 17), np.int32) * (np.arange(17) < lengths[:, None]), lengths)
    images = rng.integers(0, 256, (70, 32, 32, 3), np.uint8)
    bert = Checkpoint("tests/models/checkpoints/bert", ways_out="")
    graph, params = nnx.split(Bert(bert.tensors(), bert_config(bert)))
    vision = pretrained_images(open_pretrained(Checkpoint("tests/models/checkpoints/clip", ways_out="")))

    def pool(params, packed):
        return mean_tokens(nnx.merge(graph, params)(packed), packed)

    def features(devices):
        monkeypatch.setattr(jax, "local_devices", lambda: eight_devices[:devices])
        monkeypatch.setattr(jax, "local_device_count", lambda: devices)
        text = encode_tokens(
            lambda params, packed: mean_tokens(nnx.merge(graph, params)(packed), packed), params, tokens
        )
        return text, vision.encode(images)

    for ours, expected in zip(features(4), features(1), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError(), "JAX has no such devices here"),
        (RuntimeError("Unable to initialize backend 'gpux' (set JAX_PLATFORMS='' to choose)"), "backend 'gpux'; set"),
    ],
)
def test_a_platform_that_cannot_be_had_is_one_line(error, reason, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS=.*cannot be used: .*set JAX_PLATFORMS=cpu") as raised:
        require_devices()
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("capability", "platform", "dtype"),
    [
        ("7.0", "gpu", "float32"),  # V100
        ("7.5", "gpu", "float32"),  # T4
        ("8.0", "gpu", "bfloat16"),  # A100
        ("12.0", "gpu", "bfloat16"),
        ("gfx90a", "gpu", "bfloat16"),  # AMD
        (None, "tpu", "bfloat16"),
        (None, "cpu", "float32"),
        (None, "cuda", "bfloat16"),  # preflight compiles on a CPU
    ],
)
def test_bfloat16_is_for_hardware_that_has_it(capability, platform, dtype, monkeypatch):
    device = SimpleNamespace(compute_capability=capability) if capability else SimpleNamespace()
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert compute_dtype(method_config("ce", {}).model, platform) == dtype
