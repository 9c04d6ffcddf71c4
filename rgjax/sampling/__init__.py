"""Samplers draw a pool of training examples; DeepSMOTE adds synthetic images."""

from rgjax.sampling.deepsmote import DeepSmoteSettings as DeepSmoteSettings
from rgjax.sampling.deepsmote import Synthetic as Synthetic
from rgjax.sampling.deepsmote import deepsmote as deepsmote
from rgjax.sampling.samplers import SAMPLERS as SAMPLERS
from rgjax.sampling.smote import SyntheticFeatures as SyntheticFeatures
from rgjax.sampling.smote import feature_smote as feature_smote
