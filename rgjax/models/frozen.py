"""Classifiers on the features of a frozen encoder: linear, or with a hidden layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rgjax.models.layers import HEADS, LinearHead
from rgjax.models.transformer import dropout


class Standardization(NamedTuple):
    """Mean and standard deviation of each feature [D], over the training examples."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Standardization":
        """Those of features [N, D]; a deviation of 1 for features that are constant.

        Constant to the precision of float32, that is, whose digits would be noise.
        """
        mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        varies = std > 1e-6 * np.abs(features).max(axis=0)
        return cls(mean.astype(np.float32), np.where(varies, std, 1.0).astype(np.float32))

    @classmethod
    def blank(cls, width: int) -> "Standardization":
        """Means of 0 and deviations of 1, where a checkpoint replaces them."""
        return cls(np.zeros(width, np.float32), np.ones(width, np.float32))


class FeatureClassifier(nnx.Module):
    """Logits of raw features [B, D]: [B, outputs].

    The features are standardized by statistics that are saved with the network and not trained. Hidden units are ReLUs.
    """

    def __init__(
        self,
        standardization: Standardization,
        outputs: int,
        *,
        hidden: int,
        head: str,
        dropout: float,
        dtype: jnp.dtype,
        rng: np.random.Generator,
    ):
        """Draw the initial weights.

        Args:
            standardization: of the training examples' features.
            outputs: of the head.
            hidden: units of the hidden layer; 0 for none, a linear classifier.
            head: a key of `HEADS`.
            dropout: rate of the hidden units, in training.
            dtype: of the hidden layer's activations.
            rng: draws the initial weights.
        """
        self.mean, self.std = (nnx.BatchStat(jnp.asarray(values)) for values in standardization)
        width = len(standardization.mean)
        self.hidden = LinearHead(width, hidden, rng=rng) if hidden else None
        self.head = HEADS[head](hidden or width, outputs, rng=rng)
        self.rate, self.dtype = dropout, dtype

    def features(self, x: jax.Array) -> jax.Array:
        """What the head reads, in float32.

        Hidden activations [B, hidden]; of a linear classifier, the standardized features [B, D].
        """
        x = (x - self.mean[...][None]) / self.std[...][None]
        if self.hidden is None:
            return x
        kernel, bias = (parameter[...].astype(self.dtype) for parameter in (self.hidden.kernel, self.hidden.bias))
        return jax.nn.relu(x.astype(self.dtype) @ kernel + bias[None]).astype(jnp.float32)

    def __call__(self, x, *, train: bool = False, key=None):
        features = self.features(x)
        return self.head(dropout(features, self.rate, key) if train and self.hidden else features)
