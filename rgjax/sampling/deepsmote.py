"""DeepSMOTE (Dablain, Krawczyk & Chawla 2022): synthetic images, by SMOTE among the codes of an autoencoder.

Everything runs on one device; the processes of a multi-process run each work for themselves.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rgjax.console import progress
from rgjax.errors import UserError
from rgjax.sampling.autoencoder import Autoencoder
from rgjax.sampling.samplers import epoch_rows
from rgjax.sharding import in_batches

_RATE = 1e-3  # Adam's, decayed to 0 by a cosine
_BATCH = 128  # images encoded or decoded at a time
_DISTANCES = 2**24  # computed at a time
_SHOWN = 12  # real rows of a class that are kept with their reconstructions


class Synthetic(NamedTuple):
    """Synthetic `images` uint8 [M, H, W, 3] and their `labels` int32 [M], and `shown` [S], some of the real rows of
    each class, with what the autoencoder makes of them, `reconstructed` uint8 [S, H, W, 3]."""

    images: np.ndarray
    labels: np.ndarray
    shown: np.ndarray
    reconstructed: np.ndarray


class Coder(NamedTuple):
    """A trained autoencoder: uint8 images [B, H, W, 3] to codes [B, D] float32, and back."""

    encode: Callable[[np.ndarray], jax.Array]
    decode: Callable[[jax.Array], jax.Array]


def missing(labels: np.ndarray) -> np.ndarray:
    """The labels int32 [M] of the rows that every class of `labels` [N] lacks to the size of the largest."""
    counts = np.bincount(labels)
    return np.repeat(np.arange(len(counts), dtype=np.int32), np.where(counts > 0, counts.max() - counts, 0))


def deepsmote(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    latent: int,
    width: int,
    penalty: float,
    neighbors: int,
    seed: int,
    dtype=jnp.float32,
) -> Synthetic:
    """Train an autoencoder on `images` uint8 [N, H, W, 3], and balance the classes of `labels` [N] by what it decodes.

    A synthetic image's code lies between those of a random member of its class and of a random one of the member's
    `neighbors` nearest in the class: of all others, where there are fewer; a lone member is copied.
    """
    side = images.shape[1]
    model = Autoencoder(side, width=width, latent=latent, dtype=dtype, rng=np.random.default_rng(seed))
    graph, params = nnx.split(model, nnx.Param)
    train_key, smote_key = jax.random.split(jax.random.key(seed))
    plan = {"epochs": epochs, "batch_size": min(batch_size, len(images)), "penalty": penalty}
    params = train(graph, params, images, labels, train_key, **plan)

    encode = jax.jit(lambda params, images: nnx.merge(graph, params).encode(as_floats(images)))
    decode = jax.jit(lambda params, codes: as_bytes(nnx.merge(graph, params).decode(codes)))
    coder = Coder(partial(encode, params), partial(decode, params))
    labels_made, images_made = synthesise(coder, images, labels, neighbors, smote_key)
    rng = np.random.default_rng(seed)
    shown = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:_SHOWN] for label in np.unique(labels)])
    seen = [np.asarray(coder.decode(coder.encode(images[batch]))) for batch in in_batches(shown, _BATCH)]
    return Synthetic(images_made, labels_made, shown, np.concatenate(seen)[: len(shown)])


def synthesise(coder: Coder, images, labels, neighbors: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The labels [M] that are missing, and an image [M, H, W, 3] for each; decoded in batches."""
    wanted = missing(labels)
    made, done = np.empty((len(wanted), *images.shape[1:]), np.uint8), 0
    with progress(what="synthesise", total=len(wanted), unit="image") as bar:
        for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
            rows = np.flatnonzero(labels == label)
            batches = in_batches(rows, _BATCH)
            codes = np.concatenate([np.asarray(coder.encode(images[batch])) for batch in batches])[: len(rows)]
            codes, members = padded(codes, neighbors), np.int32(len(rows))
            near = nearest(codes, members, k=neighbors)
            for start in range(0, count, _BATCH):
                draw_key = jax.random.fold_in(jax.random.fold_in(key, label), start)
                batch = coder.decode(smote(draw_key, codes, near, members, draws=_BATCH))[: count - start]
                made[done : done + len(batch)] = np.asarray(batch)
                done += len(batch)
                bar.update(len(batch))
    return wanted, made


def as_floats(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) * np.float32(1 / 255)


def as_bytes(images: jax.Array) -> jax.Array:
    return jnp.round(255 * images).astype(jnp.uint8)


def errors(model: Autoencoder, images: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean squared errors of a batch: of the images decoded from their own codes, and from each other's.

    `order` [B] permutes the codes, not the images, within the classes. Both have a gradient in the encoder.
    """
    codes = model.encode(images)
    own, others = jnp.split(model.decode(jnp.concatenate([codes, codes[order]])), 2)
    return jnp.mean((own - images) ** 2), jnp.mean((others - images) ** 2)


def within_classes(key: jax.Array, labels: jax.Array) -> jax.Array:
    """A random permutation of the rows of `labels` [B] that gives each a row of its own class: int32 [B]."""
    drawn = jax.random.uniform(key, labels.shape, jnp.float32)
    rows = jnp.argsort(labels, stable=True)
    return jnp.zeros(labels.shape, jnp.int32).at[rows].set(jnp.lexsort((drawn, labels)).astype(jnp.int32))


class _State(NamedTuple):
    params: Any
    opt_state: Any
    epoch: jax.Array


def train(graph, params, images, labels, key, *, epochs: int, batch_size: int, penalty: float):
    """The autoencoder's parameters after `epochs` of batches; a call of the device trains one epoch.

    The loss is the reconstruction's error plus `penalty` times that of codes permuted within the classes. The paper
    adds the two as they are; but what is best for the sum is to decode (x + penalty * mean of the class) /
    (1 + penalty), with a penalty of 1 a picture of half the contrast. Raises UserError where the error is not finite.
    """
    shape, steps = images.shape[1:], len(images) // batch_size
    adam = optax.adam(optax.cosine_decay_schedule(_RATE, epochs * steps))

    def objective(params, images, labels, key):
        reconstruction, permuted = errors(nnx.merge(graph, params), images, within_classes(key, labels))
        return reconstruction + penalty * permuted, reconstruction

    @partial(jax.jit, donate_argnums=0)
    def run_epoch(state: _State, pixels, labels, key):
        order_key, key = jax.random.split(jax.random.fold_in(key, state.epoch))
        order = epoch_rows(order_key, jnp.arange(len(labels), dtype=jnp.int32), steps * batch_size)

        def step(i, carry):
            params, opt_state, total = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            batch = as_floats(pixels[rows].reshape(batch_size, *shape))
            gradient = jax.grad(objective, has_aux=True)
            grads, error = gradient(params, batch, labels[rows], jax.random.fold_in(key, i))
            updates, opt_state = adam.update(grads, opt_state)
            return optax.apply_updates(params, updates), opt_state, total + error

        zero = jnp.zeros((), jnp.float32)
        params, opt_state, total = jax.lax.fori_loop(0, steps, step, (state.params, state.opt_state, zero))
        return _State(params, opt_state, state.epoch + 1), total / steps

    # Pixels lie in one axis: TPUs pad a last axis of three to 128.
    data = jax.device_put((images.reshape(len(images), -1), labels.astype(np.int32)))
    state = _State(params, adam.init(params), jnp.zeros((), jnp.int32))
    with progress(what="autoencoder", total=epochs, unit="epoch") as bar:
        error = np.float32(0)
        for _ in range(epochs):
            state, error = run_epoch(state, *data, key)
            bar.set_postfix_str(f"error {float(error):.5f}", refresh=False)
            bar.update()
    if not np.isfinite(error):
        raise UserError("DeepSMOTE's autoencoder is lost: its error is not finite; lower config.deepsmote.penalty")
    return state.params


def padded(codes: np.ndarray, neighbors: int) -> np.ndarray:
    """`codes` [n, D] filled up to a power of two of rows, so that classes share their programs."""
    size = 1 << max(len(codes) - 1, neighbors).bit_length()
    return np.concatenate([codes, np.zeros((size - len(codes), codes.shape[1]), codes.dtype)])


@partial(jax.jit, static_argnames="k")
def nearest(codes: jax.Array, count: jax.Array, *, k: int) -> jax.Array:
    """The `k` nearest of each of the first `count` rows of `codes` [P, D], P a power of two, nearest first: int32
    [P, k]. Of no more than k rows, count - 1 of a row's places are theirs and the rest is void.
    """
    size = len(codes)
    real = jnp.arange(size, dtype=jnp.int32) < count
    # About their mean, so that no digits are lost where all are far from zero.
    centered = jnp.where(real[:, None], codes - codes.sum(axis=0)[None] / count.astype(codes.dtype), 0)
    squares = (centered**2).sum(axis=1)
    block = max(1, min(size, _DISTANCES // size))

    def of_block(start):
        rows = jax.lax.dynamic_slice_in_dim(centered, start, block)
        distances = squares[None] - 2 * jnp.matmul(rows, centered.T, precision=jax.lax.Precision.HIGHEST)
        own = start + jnp.arange(block, dtype=jnp.int32)
        others = real[None] & (own[:, None] != jnp.arange(size, dtype=jnp.int32)[None])
        return jax.lax.top_k(jnp.where(others, -distances, -jnp.inf), k)[1]

    return jax.lax.map(of_block, jnp.arange(0, size, block, dtype=jnp.int32)).reshape(size, k)


@partial(jax.jit, static_argnames="draws")
def smote(key: jax.Array, codes: jax.Array, near: jax.Array, count: jax.Array, *, draws: int) -> jax.Array:
    """SMOTE (Chawla et al. 2002): `draws` points [draws, D], each on the segment from a random one of the first `count`
    rows of `codes` [P, D] to a random one of its neighbors `near` [P, k]."""
    member_key, other_key, share_key = jax.random.split(key, 3)
    k = jnp.minimum(near.shape[1], count - 1)
    members = jax.random.randint(member_key, (draws,), 0, count)
    others = near[members, jax.random.randint(other_key, (draws,), 0, jnp.maximum(k, 1))]
    others = jnp.where(k > 0, others, members)
    share = jax.random.uniform(share_key, (draws, 1), jnp.float32)
    return codes[members] + share * (codes[others] - codes[members])
