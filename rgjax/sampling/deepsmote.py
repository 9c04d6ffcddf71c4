"""DeepSMOTE: synthetic images by SMOTE on the codes of an autoencoder.

The method is that of Dablain, Krawczyk & Chawla (2022). It runs on one device; in a multi-process run, each process
repeats the computation.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int, Integer, UInt8

from rgjax.console import progress
from rgjax.errors import UserError
from rgjax.sampling.autoencoder import Autoencoder
from rgjax.sampling.samplers import epoch_rows
from rgjax.sampling.smote import Coder, synthesize
from rgjax.sharding import in_batches

_RATE = 1e-3  # Adam's peak learning rate, decayed to 0 by a cosine
_BATCH = 128  # images encoded or decoded at a time
_SHOWN = 12  # real images per class that are kept with their reconstructions


@dataclass(frozen=True)
class DeepSmoteSettings:
    """Settings of DeepSMOTE.

    Attributes:
        epochs: epochs of the autoencoder's training.
        batch_size: examples per step.
        latent: length of the codes.
        width: channels of the first layer; each further layer doubles them.
        penalty: weight of the error of images decoded from the code of another image of the same class.
        neighbors: number of nearest neighbors that SMOTE interpolates to.
        seed: seed of the training and of the synthetic images.
    """

    epochs: int
    batch_size: int
    latent: int
    width: int
    penalty: float
    neighbors: int
    seed: int


class Synthetic(NamedTuple):
    """Synthetic images with their labels, and examples of reconstruction.

    `shown` are indices of some real images of each class, `reconstructed` the images decoded from their codes.
    """

    images: UInt8[np.ndarray, "M H W 3"]
    labels: Int[np.ndarray, " M"]
    shown: Int[np.ndarray, " S"]
    reconstructed: UInt8[np.ndarray, "S H W 3"]

    @property
    def inputs(self) -> UInt8[np.ndarray, "M H W 3"]:
        return self.images


def deepsmote(
    images: UInt8[np.ndarray, "N H W 3"],
    labels: Integer[np.ndarray, " N"],
    settings: DeepSmoteSettings,
    *,
    dtype: Any = jnp.float32,
) -> Synthetic:
    """Balance the classes with synthetic images.

    An autoencoder is trained on the images. It then decodes codes that are interpolated between a random image of a
    class and one of its nearest neighbors in the class. If a class has a single image, this is copied.

    Args:
        images: the training images.
        labels: their (pseudo-)classes.
        settings: settings of the autoencoder and of SMOTE.
        dtype: compute precision of the convolutions.

    Raises:
        UserError: when the autoencoder diverges.
    """
    seed = settings.seed
    model = Autoencoder(
        images.shape[1], width=settings.width, latent=settings.latent, dtype=dtype, rng=np.random.default_rng(seed)
    )
    graph, params = nnx.split(model, nnx.Param)
    train_key, smote_key = jax.random.split(jax.random.key(seed))
    params = train(graph, params, images, labels, train_key, settings)

    encode = jax.jit(lambda params, images: nnx.merge(graph, params).encode(as_floats(images)))
    decode = jax.jit(lambda params, codes: as_bytes(nnx.merge(graph, params).decode(codes)))
    coder = Coder(partial(encode, params), partial(decode, params))
    synthetic_labels, synthetic_images = synthesize(coder, images, labels, settings.neighbors, smote_key)

    # Reconstruct some real images of each class, to show how good the autoencoder is.
    rng = np.random.default_rng(seed)
    shown = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:_SHOWN] for label in np.unique(labels)])
    decoded = [np.asarray(coder.decode(coder.encode(images[batch]))) for batch in in_batches(shown, _BATCH)]
    return Synthetic(synthetic_images, synthetic_labels, shown, np.concatenate(decoded)[: len(shown)])


def as_floats(images: jax.Array) -> jax.Array:
    """Pixels 0..255 as 0..1."""
    return images.astype(jnp.float32) * np.float32(1 / 255)


def as_bytes(images: jax.Array) -> jax.Array:
    """Pixels 0..1 as 0..255."""
    return jnp.round(255 * images).astype(jnp.uint8)


def errors(model: Autoencoder, images: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean squared errors of images decoded from their codes and from permuted codes.

    `order` [B] permutes the codes within the classes; the images keep their order. Both errors train the encoder.
    """
    codes = model.encode(images)
    reconstructed, permuted = jnp.split(model.decode(jnp.concatenate([codes, codes[order]])), 2)
    return jnp.mean((reconstructed - images) ** 2), jnp.mean((permuted - images) ** 2)


def within_classes(key: jax.Array, labels: Int[Array | np.ndarray, " B"]) -> Int[Array, " B"]:
    """A random permutation of a batch that maps each example to one of its class."""
    draws = jax.random.uniform(key, labels.shape, jnp.float32)
    by_class = jnp.argsort(labels, stable=True)
    return jnp.zeros(labels.shape, jnp.int32).at[by_class].set(jnp.lexsort((draws, labels)).astype(jnp.int32))


class _State(NamedTuple):
    params: Any
    opt_state: Any
    epoch: jax.Array


def train(graph, params, images: np.ndarray, labels: np.ndarray, key: jax.Array, settings: DeepSmoteSettings):
    """Train the autoencoder; each device call trains one epoch.

    The loss is the reconstruction error plus `penalty` times the error for codes permuted within the classes. The paper
    has a penalty of 1. But the loss is minimal if an image x is decoded as (x + penalty * class mean) / (1 + penalty):
    with a penalty of 1, images lose half of their contrast.

    Args:
        graph, params: the `Autoencoder` before training.
        images: uint8 [N, H, W, 3].
        labels: their classes [N].
        key: random key.
        settings: epochs, batch size (at most N) and penalty.

    Returns:
        The trained parameters.

    Raises:
        UserError: when the error is not finite after the last epoch.
    """
    batch_size = min(settings.batch_size, len(images))
    shape, steps = images.shape[1:], len(images) // batch_size
    adam = optax.adam(optax.cosine_decay_schedule(_RATE, settings.epochs * steps))

    def objective(params, images, labels, key):
        reconstruction, permuted = errors(nnx.merge(graph, params), images, within_classes(key, labels))
        return reconstruction + settings.penalty * permuted, reconstruction

    @partial(jax.jit, donate_argnums=0)
    def run_epoch(state: _State, pixels, labels, key):
        order_key, key = jax.random.split(jax.random.fold_in(key, state.epoch))
        order = epoch_rows(order_key, jnp.arange(len(labels), dtype=jnp.int32), steps * batch_size)

        def step(i, carry):
            params, opt_state, total = carry
            indices = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            batch = as_floats(pixels[indices].reshape(batch_size, *shape))
            gradient = jax.grad(objective, has_aux=True)
            grads, error = gradient(params, batch, labels[indices], jax.random.fold_in(key, i))
            updates, opt_state = adam.update(grads, opt_state)
            return optax.apply_updates(params, updates), opt_state, total + error

        zero = jnp.zeros((), jnp.float32)
        params, opt_state, total = jax.lax.fori_loop(0, steps, step, (state.params, state.opt_state, zero))
        return _State(params, opt_state, state.epoch + 1), total / steps

    # Images are flattened: TPUs pad a last axis of three to 128.
    data = jax.device_put((images.reshape(len(images), -1), labels.astype(np.int32)))
    state = _State(params, adam.init(params), jnp.zeros((), jnp.int32))
    with progress(what="autoencoder", total=settings.epochs, unit="epoch") as bar:
        error = np.float32(0)
        for _ in range(settings.epochs):
            state, error = run_epoch(state, *data, key)
            bar.set_postfix_str(f"error {float(error):.5f}", refresh=False)
            bar.update()
    if not np.isfinite(error):
        raise UserError(
            f"config.deepsmote.penalty={settings.penalty:g}: the autoencoder diverged (non-finite error); lower it"
        )
    return state.params
