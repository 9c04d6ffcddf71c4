"""Habits of fine-tuning: rates by depth, a frozen start, decay and clipping."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rgjax.models.backbone import parameter_depths
from rgjax.training.layout import Layout


@dataclass(frozen=True)
class Habits:
    """What fine-tuning does otherwise than training from scratch.

    Each of the first three is None, for 1 everywhere, or a tree like the parameters, of arrays that broadcast to them.

    Attributes:
        rates: multiples of the learning rate.
        decays: multiples of the weight decay.
        heads: 1 for the head, 0 for all that stays as it is while the head alone learns.
        clip_norm: largest norm of the gradient of what moves; 0 for no limit.
    """

    rates: Any = None
    decays: Any = None
    heads: Any = None
    clip_norm: float = 0.0

    def stored(self, layout: Layout, params: Any) -> "Habits":
        """The same in the layout's form; `params` are arrays in trees."""

        def store(factors):
            if factors is None:
                return None
            return layout.flatten(jax.tree.map(lambda factor, x: jnp.broadcast_to(factor, x.shape), factors, params))

        return replace(self, rates=store(self.rates), decays=store(self.decays), heads=store(self.heads))

    def at(self, head_only: jax.Array) -> "Habits":
        """The same in a step in which the head alone learns, or all parameters.

        Parameters that do not move gather moments, with which they begin.
        """
        if self.heads is None:
            return self
        return replace(self, heads=jax.tree.map(lambda head: jnp.where(head_only, head, 1.0), self.heads))

    def clip(self, grads: Any) -> Any:
        """Scale gradients to a norm of at most `clip_norm`, as clip_grad_norm_ does."""
        if not self.clip_norm:
            return grads
        scale = jnp.minimum(self.clip_norm / (optax.global_norm(_times(grads, self.heads)) + 1e-6), 1.0)
        return jax.tree.map(lambda grad: grad * scale, grads)

    def scale(self, updates: Any) -> Any:
        """The optimizer's updates by the learning rates of their parameters."""
        return _times(_times(updates, self.rates), self.heads)


def _times(tree: Any, factors: Any) -> Any:
    return tree if factors is None else jax.tree.map(jnp.multiply, tree, factors)


PLAIN = Habits()


def make_habits(config: Any, model: nnx.Module) -> Habits:
    """The habits that the config's section `train` asks for.

    Rates fall by `layer_decay` from layer to layer below the head (Clark et al. 2020; timm's layer decay), whose own is
    `head_lr`. Without
    `decay_all`, vectors have no weight decay: biases, the parameters of normalizations, class tokens.

    Args:
        config: the section `train`.
        model: the network; only the shapes of its parameters are read.
    """
    tower = next((name for name in ("backbone", "bert") if hasattr(model, name)), None)
    params = nnx.state(model, nnx.Param)
    depths, top = jax.tree.map(lambda param: np.float32(0), params), 0.0
    if tower is not None:
        below = parameter_depths(getattr(model, tower))
        layers = below["layers" if "layers" in below else "blocks"]
        top = max(depth.max() for depth in jax.tree.leaves(layers)) + 1
        depths = jax.tree.map(lambda param: np.float32(top), params)
        depths[tower] = below

    def decayed(param, depth) -> np.float32:
        return np.float32(param.ndim - (depth.ndim > 0) > 1)  # a depth with axes is that of stacked layers

    def is_head(path, param) -> np.float32:
        return np.float32(path[0].key == "head")

    def rate(path, depth):
        return np.float32(config.head_lr) if is_head(path, depth) else config.layer_decay ** (top - depth)

    return Habits(
        rates=None if config.layer_decay == config.head_lr == 1 else jax.tree.map_with_path(rate, depths),
        decays=None if config.decay_all else jax.tree.map(decayed, params, depths),
        heads=jax.tree.map_with_path(is_head, params) if config.head_only_percent else None,
        clip_norm=config.clip_norm,
    )
