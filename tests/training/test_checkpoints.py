"""Checkpoints: bit-equal round trips, and corrupted ones of which no number is used."""

import json
import shutil
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, struct

from rgjax.storage.files import digest, newest_step
from rgjax.training import checkpoints as checkpoints_module
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.program import TrainState


def state_at(step: int) -> TrainState:
    return TrainState(
        {"w": jnp.full((3,), step / 3, jnp.float32)}, {"mean": jnp.ones(2)}, (jnp.zeros(3),), jnp.int32(step)
    )


def assert_same_state(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def restore(folder):
    checkpoints = Checkpoints(folder)
    state, seconds, skipped = checkpoints.restore(state_at(0))
    checkpoints.close()
    return state, seconds, skipped


def test_round_trip_is_bit_equal_and_the_newest_wins(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    blank, *clock = checkpoints.restore(state_at(0))
    assert int(blank.step) == 0
    assert clock == [0.0, 0]
    for step in (1, 2, 2):
        checkpoints.save(state_at(step), 1.5 * step, 3 * step)
    checkpoints.close()
    state, *clock = restore(tmp_path / "c")
    assert clock == [3.0, 6]
    assert_same_state(state, state_at(2))


def test_the_loop_does_not_wait_for_a_checksum(tmp_path, monkeypatch):
    compared, checksum = threading.Event(), checkpoints_module._checksum
    monkeypatch.setattr(checkpoints_module, "_checksum", lambda *args: compared.wait(60) and checksum(*args))
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state_at(1), 1.0)
    assert not newest_step(tmp_path / "c")  # no checkpoint without its checksum
    compared.set()
    checkpoints.close()
    assert newest_step(tmp_path / "c") == 1
    assert "sha256" in json.loads((tmp_path / "c" / "1" / "clock" / "metadata").read_text())


def test_parameters_that_older_versions_had_in_others_begin_at_zero(tmp_path):
    def state(**later):
        params = nnx.State({"bert": {"positions": jnp.arange(6.0).reshape(3, 2), **later}})
        return TrainState(params, nnx.State({}), optax.adam(0.1).init(params), jnp.int32(4))

    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(older := state(), 1.0)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "c")
    restored, *_ = checkpoints.restore(state(types=jnp.ones((2, 2))))
    assert int(restored.step) == 4
    assert not restored.params["bert"].pop("types").any()
    assert_same_state(restored.params, older.params)
    for moments in restored.opt_state[0][1:]:
        assert not moments["bert"]["types"].any()
    checkpoints.save(replace(restored, step=jnp.int32(5)), 2.0)
    checkpoints.close()


@struct.dataclass
class FormerState:
    """A TrainState before it had `alive`."""

    params: dict
    batch_stats: dict
    opt_state: tuple
    step: jax.Array


def test_checkpoints_of_former_versions_restore(tmp_path):
    former = state_at(5)
    former = FormerState(former.params, former.batch_stats, former.opt_state, former.step)
    clock = {"train_s": 2.5, "skipped": 1}
    clock["sha256"] = digest(json.dumps(clock), *map(np.asarray, jax.tree.leaves(former)))
    manager = ocp.CheckpointManager(tmp_path / "c")
    save = ocp.args.Composite(state=ocp.args.StandardSave(former), clock=ocp.args.JsonSave(clock))
    manager.save(5, args=save)
    manager.close()
    state, *clock = restore(tmp_path / "c")
    assert clock == [2.5, 1]
    assert_same_state(state, state_at(5))


@pytest.fixture(scope="module")
def three_saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "c"
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(state_at(step), 1.5 * step)
    checkpoints.close()
    return folder


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "blank"])
@pytest.mark.parametrize("file", range(2))
def test_no_number_of_a_corrupted_checkpoint_is_used(file, damage, three_saved, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(three_saved, folder)
    files = sorted((path for path in (folder / "3").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    path = files[-1 - file]  # the largest ones, which hold the arrays, first
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 16
    path.write_bytes({"cut": content[: len(content) // 2], "blank": bytes(len(content))}.get(damage, content))
    if damage == "gone":
        path.unlink()
    state, seconds, _ = restore(folder)
    step = int(state.step)
    assert step in (2, 3)
    assert seconds == 1.5 * step
    assert_same_state(state, state_at(step))
    if step == 2:
        assert (folder / "3.damaged").is_dir()
        assert newest_step(folder) == 2


def test_training_starts_over_where_every_checkpoint_is_corrupted(three_saved, tmp_path, capsys):
    folder = tmp_path / "c"
    shutil.copytree(three_saved, folder)
    for path in folder.glob("*/clock/metadata"):
        path.write_text('{"train_s": 1, "sha256": "0"}')
    assert int(restore(folder)[0].step) == 0
    assert newest_step(folder) == 0
    assert str(folder / "3") in capsys.readouterr().err
