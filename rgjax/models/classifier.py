"""A pretrained backbone of any family with a new head."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from rgjax.models.layers import new_head
from rgjax.models.transformer import dropout


class Classifier(nnx.Module):
    """Normalized images [B, H, W, 3] or Packed text -> logits [B, classes] in float32."""

    def __init__(
        self, backbone: Any, classes: int, *, head: str = "linear", dropout: float = 0.0, rng: np.random.Generator
    ):
        """Put a head on a backbone.

        Args:
            backbone: with `features` and `width`, as `rgjax.models.families` describes it.
            classes: outputs of the head.
            head: a key of `HEADS`.
            dropout: rate of dropout of the features.
            rng: draws the initial weights.
        """
        self.backbone, self.dropout = backbone, dropout
        self.head = new_head(head, backbone.width, classes, rng=rng)

    def features(self, batch, *, train: bool = False, key=None):
        """The backbone's features, which the head reads: [B, D] in float32."""
        return self.backbone.features(batch, train=train, key=key)

    def __call__(self, batch, *, train: bool = False, key=None):
        keys = tuple(jax.random.split(key)) if train and key is not None else (None, None)
        return self.head(dropout(self.features(batch, train=train, key=keys[0]), self.dropout, keys[1]))
