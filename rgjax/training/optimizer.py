"""Optimizers with traced hyper-parameters: one program serves a whole grid."""

import jax
import jax.numpy as jnp
import optax


def cosine_decay(step: jax.Array, *, peak, warmup_steps, total_steps) -> jax.Array:
    """Learning rate at `step`: linear warm-up, then half a cosine from `peak` to 0.

    It is the schedule of SGDR (Loshchilov & Hutter 2017) without restarts, and decays at every step; torch's
    CosineAnnealingLR, stepped once per epoch, is the staircase through it.

    Args:
        step: counted from 0.
        peak: the learning rate after the warm-up.
        warmup_steps: 0 for none.
        total_steps: at which the learning rate reaches 0.
    """
    step, warmup, total = (jnp.asarray(v, jnp.float32) for v in (step, warmup_steps, total_steps))
    progress = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
    return peak * jnp.minimum((step + 1.0) / (warmup + 1.0), 1.0) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _sgd(lr, momentum, weight_decay, shares=None):
    """SGD as in torch: weight decay is added to the gradient before the momentum."""
    return optax.chain(_decay(weight_decay, shares), optax.trace(momentum), optax.scale_by_learning_rate(lr))


def _adamw(lr, momentum, weight_decay, shares=None):
    """Adam with decoupled weight decay; `momentum` is its beta1.

    Source: Loshchilov & Hutter 2019.
    """
    return optax.chain(optax.scale_by_adam(b1=momentum), _decay(weight_decay, shares), optax.scale_by_learning_rate(lr))


def _decay(weight_decay, shares):
    """Weight decay, multiplied by `shares`, a tree like the parameters; 1 if None."""
    if shares is None:
        return optax.add_decayed_weights(weight_decay)

    def add(updates, params):
        return jax.tree.map(lambda update, param, share: update + weight_decay * share * param, updates, params, shares)

    return optax.stateless(add)


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
