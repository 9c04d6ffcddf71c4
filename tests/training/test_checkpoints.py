import jax
import jax.numpy as jnp
import numpy as np

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
