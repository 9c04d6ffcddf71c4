"""Augmentation and normalization on the device, inside the training program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in torchvision
STD = (0.229, 0.224, 0.225)
LANES = 128  # TPUs pad the last axis of an array to a multiple of this


def in_lanes(images: np.ndarray, normalization: Callable | None = None) -> tuple[np.ndarray, Callable]:
    """Pack images for the devices; also return the `prepare_images` that unpacks them.

    A TPU gathers examples from an array [N, R, 128] in place; from any other shape it first copies the whole data set.

    Args:
        images: uint8 [N, H, W, 3].
        normalization: of this `prepare_images`.

    Returns:
        The packed images [N, R, 128], zero-padded, and a function with the signature of `prepare_images` for them.
    """
    shape = images.shape[1:]
    size = int(np.prod(shape))

    def prepare(packed: jax.Array, *args, **strengths) -> jax.Array:
        flat = packed.reshape(len(packed), -1)[:, :size]
        return prepare_images(flat.reshape(len(packed), *shape), *args, normalization=normalization, **strengths)

    return to_lanes(images), prepare


def to_lanes(images: np.ndarray) -> np.ndarray:
    """Reshape images uint8 [N, H, W, 3] to [N, R, 128].

    A view if H * W * 3 is a multiple of 128, else a zero-padded copy.
    """
    flat = images.reshape(len(images), int(np.prod(images.shape[1:])))
    if flat.shape[1] % LANES:
        flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % LANES)))
    return flat.reshape(len(images), -1, LANES)


def prepare_images(
    images: jax.Array, keys: jax.Array | None = None, *, normalization: Callable | None = None, **strengths: jax.Array
) -> jax.Array:
    """Normalize uint8 images [B, H, W, 3] for the network; with `keys`, augment first.

    Args:
        images: uint8 [B, H, W, 3].
        keys: one random key per image [B]; None: do not augment.
        normalization: of float32 images in 0..255, as the network expects it; `normalize` if None.
        strengths: of `augment`.
    """
    augmented = images.astype(jnp.float32) if keys is None else augment(keys, images, **strengths)
    return (normalization or normalize)(augmented)


def normalize(images: jax.Array) -> jax.Array:
    """(x / 255 - mean) / std for float32 images [B, H, W, 3] in 0..255."""
    mean, std = jnp.array(MEAN, jnp.float32), jnp.array(STD, jnp.float32)
    channel = (1, 1, 1, 3)
    return images * (1 / (255 * std)).reshape(channel) - (mean / std).reshape(channel)


def augment(
    keys: jax.Array, images: jax.Array, rotation: jax.Array, flip: jax.Array, jitter: jax.Array | None = None
) -> jax.Array:
    """Flip and rotate images at random, and change their colors.

    Interpolation is bilinear; pixels beyond the border repeat the nearest pixel.

    Args:
        keys: one random key per image [B]; only this key, not the position, determines how an image is augmented.
        images: uint8 [B, H, W, 3].
        rotation: largest angle in degrees; the angle is uniform in [-rotation, rotation].
        flip: probability of a horizontal flip.
        jitter: strength of `color_jitter`; without, colors stay as they are.

    Returns:
        float32 [B, H, W, 3] in 0..255.
    """
    batch, height, width, channels = images.shape
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(keys).reshape(batch, 2, 1, 1)
    sign = jnp.where(draws[:, 0] < flip, -1.0, 1.0).astype(jnp.float32)
    degrees = (2 * draws[:, 1] - 1) * rotation
    sine, cosine = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    center_y, center_x = (height - 1) / 2, (width - 1) / 2
    y = (jnp.arange(height, dtype=jnp.float32) - center_y)[None, :, None]
    x = (jnp.arange(width, dtype=jnp.float32) - center_x)[None, None, :]
    from_y = jnp.clip(cosine * y - sine * x + center_y, 0, height - 1)
    from_x = jnp.clip(sign * (sine * y + cosine * x) + center_x, 0, width - 1)
    top, left = jnp.floor(from_y), jnp.floor(from_x)
    down, right = (from_y - top)[..., None], (from_x - left)[..., None]  # weights of the lower and the right pixels
    pixels = images.reshape(batch, height * width, channels)

    def gather(i, j):
        index = jnp.minimum(i, height - 1) * width + jnp.minimum(j, width - 1)
        gathered = jnp.take_along_axis(pixels, index.reshape(batch, -1, 1), axis=1)
        return gathered.reshape(images.shape).astype(jnp.float32)

    i, j = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = gather(i, j) * (1 - right) + gather(i, j + 1) * right
    lower = gather(i + 1, j) * (1 - right) + gather(i + 1, j + 1) * right
    turned = upper * (1 - down) + lower * down
    return turned if jitter is None else color_jitter(keys, turned, jitter)


def color_jitter(keys: jax.Array, images: jax.Array, strength: jax.Array) -> jax.Array:
    """Change brightness, contrast and saturation at random, in this order.

    As by torchvision's ColorJitter(strength, strength, strength), which draws the order too.

    Args:
        keys: one random key per image [B].
        images: float32 [B, H, W, 3] in 0..255.
        strength: each change has a factor that is uniform in [1 - strength, 1 + strength].
    """
    draws = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (3,), jnp.float32))(keys)
    return change_colors(images, 1 + strength * (2 * draws - 1))


def change_colors(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Blend images with black, their mean gray and their gray.

    `factors` [B, 3] are the weights of the images.
    """
    for other, factor in zip((_black, _mean_gray, _gray), factors.T, strict=True):
        factor = factor.reshape(-1, 1, 1, 1)
        images = jnp.clip(factor * images + (1 - factor) * other(images), 0, 255)
    return images


def _black(images):
    return jnp.zeros((), jnp.float32)


def _gray(images):
    return (images * jnp.array((0.2989, 0.587, 0.114), jnp.float32).reshape(1, 1, 1, 3)).sum(axis=3, keepdims=True)


def _mean_gray(images):
    return _gray(images).mean(axis=(1, 2), keepdims=True)
