from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates

from rgjax.data.augment import MEAN, STD, augment, change_colors, color_jitter, in_lanes, normalize, prepare_images

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


def test_colors_change_as_by_torchvision():
    recorded = dict(np.load(Path(__file__).with_name("jitter_torchvision.npz")))
    changed = change_colors(jnp.asarray(recorded["images"]), jnp.asarray(recorded["factors"]))
    np.testing.assert_allclose(changed, recorded["changed"], atol=0.05)


def test_color_jitter_depends_on_the_key_of_an_image_and_on_the_strength_alone():
    jitter = jax.jit(augment)
    changed = jitter(KEYS, IMAGES, 0.0, 0.0, 0.4)
    assert (np.abs(changed - IMAGES.astype(jnp.float32)).max(axis=(1, 2, 3)) > 1).all()
    np.testing.assert_array_equal(jitter(KEYS[::-1], IMAGES[::-1], 0.0, 0.0, 0.4), changed[::-1])
    np.testing.assert_array_equal(jitter(KEYS, IMAGES, 0.0, 0.0, 0.0), IMAGES)


def test_factors_of_color_jitter_are_uniform_around_1():
    keys = jax.random.split(jax.random.key(0), 1000)
    gray = jnp.full((1000, 1, 1, 3), 100.0)  # whose contrast and saturation cannot change
    levels = np.sort(np.asarray(color_jitter(keys, gray, jnp.float32(0.5)))[:, 0, 0, 0])
    np.testing.assert_allclose(levels, np.linspace(50, 150, 1000), atol=6)
