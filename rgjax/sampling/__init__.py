"""Samplers draw a pool of training examples; DeepSMOTE adds synthetic images."""

from rgjax.sampling.deepsmote import DeepSmoteSettings as DeepSmoteSettings
from rgjax.sampling.deepsmote import Synthetic as Synthetic
from rgjax.sampling.deepsmote import deepsmote as deepsmote
from rgjax.sampling.samplers import SAMPLERS as SAMPLERS
