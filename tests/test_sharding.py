import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.sharding import in_batches, over_devices

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (6, 3), (2, 5), (1, 1)])
def test_batches_hold_every_row_once_and_then_the_first_ones(rows, size):
    batches = in_batches(np.arange(10, 10 + rows), size)
    assert batches.shape[1] == size
    assert (batches.size - rows) < size
    np.testing.assert_array_equal(batches.ravel()[:rows], np.arange(10, 10 + rows))
    assert set(batches.ravel()) == set(range(10, 10 + rows))


def test_results_come_in_the_order_of_the_batches():
    batches = [(np.full((2, 3), i, np.float32), np.full(2, 10 * i, np.float32)) for i in range(4)]
    found = over_devices(lambda w, batch: w * batch[0] + batch[1][:, None], jnp.float32(2), batches, what="", total=4)
    np.testing.assert_array_equal(found[:, 0], np.repeat(np.arange(4) * 12.0, 2))


def test_devices_share_the_rows_and_give_the_same_features(tmp_path):
    program = """
import sys
import jax, numpy as np
from flax import nnx
from rgjax.encoders.bert import encode_tokens
from rgjax.encoders.clip import clip
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import Tokens
from rgjax.models.packing import mean_tokens
from rgjax.models.transformer import Bert, bert_config

rng = np.random.default_rng(0)
lengths = rng.integers(1, 18, 150, np.int32)
tokens = Tokens(rng.integers(1, 60, (150, 17), np.int32) * (np.arange(17) < lengths[:, None]), lengths)
bert = Checkpoint("tests/models/checkpoints/bert", ways_out="")
graph, params = nnx.split(Bert(bert.tensors(), bert_config(bert)))
pool = lambda params, packed: mean_tokens(nnx.merge(graph, params)(packed), packed)
vision = clip(Checkpoint("tests/models/checkpoints/clip", ways_out=""), unit_length=True)
images = rng.integers(0, 256, (70, 32, 32, 3), np.uint8)
np.savez(sys.argv[1], count=jax.device_count(), text=encode_tokens(pool, params, tokens), images=vision.encode(images))
"""
    found = {}
    for count in (1, 4):
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "PYTHONPATH": str(ROOT)}
        path = tmp_path / f"{count}.npz"
        subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, env=os.environ | flags, check=True, timeout=300)
        with np.load(path) as file:
            found[count] = dict(file)
        assert found[count]["count"] == count
    for name in ("text", "images"):
        np.testing.assert_allclose(found[4][name], found[1][name], atol=1e-5)
