import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates

from rgjax.data.augment import MEAN, STD, augment, in_lanes, normalize, prepare_images

AUGMENT = jax.jit(augment)  # compiles once instead of once per operation
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 12, 9, 3), np.uint8))
KEYS = jax.random.split(jax.random.key(3), 3)


def test_no_rotation_and_no_flip_is_the_identity():
    np.testing.assert_array_equal(AUGMENT(KEYS, IMAGES, 0.0, 0.0), IMAGES)
    np.testing.assert_array_equal(AUGMENT(KEYS, IMAGES, 0.0, 1.0), IMAGES[:, :, ::-1])


def test_rotation_equals_interpolation_at_the_rotated_coordinates():
    angles = jnp.deg2rad(30 * jnp.stack([2 * jax.random.uniform(key, (2,))[1] - 1 for key in KEYS]))
    y, x = jnp.meshgrid(jnp.arange(12.0) - 5.5, jnp.arange(9.0) - 4.0, indexing="ij")
    for image, angle, rotated in zip(IMAGES, angles, AUGMENT(KEYS, IMAGES, 30.0, 0.0), strict=True):
        at = [jnp.cos(angle) * y - jnp.sin(angle) * x + 5.5, jnp.sin(angle) * y + jnp.cos(angle) * x + 4.0]
        for channel in range(3):
            expected = map_coordinates(image[..., channel].astype(jnp.float32), at, order=1, mode="nearest")
            np.testing.assert_allclose(rotated[..., channel], expected, atol=1e-2)


def test_normalize():
    expected = (np.asarray(IMAGES) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalize(IMAGES.astype(jnp.float32)), expected, atol=1e-5)


@pytest.mark.parametrize("size", [8, 13, 16])
def test_packed_images_are_prepared_like_the_originals(size):
    images = np.random.default_rng(0).integers(0, 256, (5, size, size - 2, 3), np.uint8)
    packed, prepare = in_lanes(images)
    assert packed.shape == (5, -(-size * (size - 2) * 3 // 128), 128)
    np.testing.assert_array_equal(prepare(jnp.asarray(packed)), prepare_images(jnp.asarray(images)))
