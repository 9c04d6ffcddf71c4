"""Samplers, which draw a training pool, and DeepSMOTE, which adds synthetic images to it."""

from rgjax.sampling.deepsmote import Synthetic as Synthetic
from rgjax.sampling.deepsmote import deepsmote as deepsmote
from rgjax.sampling.samplers import SAMPLERS as SAMPLERS
