import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.storage.files import newest_step
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.program import TrainState


def state(step: int) -> TrainState:
    return TrainState(
        {"w": jnp.full((3,), step / 3, jnp.float32)}, {"mean": jnp.ones(2)}, (jnp.zeros(3),), jnp.int32(step)
    )


def test_round_trip_is_bit_equal_and_the_newest_wins(tmp_path):
    first = Checkpoints(tmp_path / "c")
    blank, *clock = first.restore(state(0))
    assert int(blank.step) == 0
    assert clock == [0.0, 0]
    for step in (1, 2, 2):
        first.save(state(step), 1.5 * step, 3 * step)
    first.close()
    second = Checkpoints(tmp_path / "c")
    restored, *clock = second.restore(state(0))
    second.close()
    assert clock == [3.0, 6]
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state(2)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def restored(folder):
    checkpoints = Checkpoints(folder)
    found, clock, _ = checkpoints.restore(state(0))
    checkpoints.close()
    return found, clock


@pytest.fixture(scope="module")
def three_saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "c"
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(state(step), 1.5 * step)
    checkpoints.close()
    return folder


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "blank"])
@pytest.mark.parametrize("file", range(2))
def test_of_a_damaged_checkpoint_no_number_is_used(file, damage, three_saved, tmp_path, capsys):
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
    found, clock = restored(folder)
    step = int(found.step)
    assert step in (2, 3)
    assert clock == 1.5 * step
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state(step)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if step == 2:
        assert "3 is corrupted" in capsys.readouterr().err
        assert (folder / "3.damaged").is_dir()
        assert newest_step(folder) == 2


def test_where_no_checkpoint_is_sound_training_begins_again(three_saved, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(three_saved, folder)
    for path in folder.glob("*/clock/metadata"):
        path.write_text('{"train_s": 1, "sha256": "0"}')
    assert int(restored(folder)[0].step) == 0
    assert newest_step(folder) == 0
