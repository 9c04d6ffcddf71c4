"""No training program sums into indices that may collide: on GPUs, such sums have no fixed order, and bits vary.

The programs are lowered for CUDA from their configs; neither a GPU nor XLA's compiler for one is needed.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from rgjax.config import method_config
from rgjax.losses import LOSSES, ClassStats
from rgjax.preflight.program import lowered_program, spec_task

TESTS = Path(__file__).parents[1]
TINY = {
    "data.name": "ham10000",
    "data.image_size": 32,
    "train.batch_size": 8,
    "model.name": "resnet10",
    "model.width": 4,
}
TEXT = {"data.name": "phrasebank", "train.batch_size": 8, "train.optimizer": "adamw", "model.name": "bert"}


def of_checkpoint(folder: str) -> dict:
    return {"model.name": "pretrained", "model.checkpoint": str(TESTS / folder)}


IMAGES = {
    "ImageNet stem": TINY,
    "population": TINY | {"population": 2},
    "recomputed": TINY | {"model.recompute": "yes"},
    "CIFAR stem": TINY | {"model.stem": "cifar"},
    "EfficientNet-Lite0": TINY | {"model.name": "pretrained", "model.checkpoint": "efficientnet-lite0"},
    "ResNet of timm": TINY | of_checkpoint("models/cnn/timm_Bottleneck"),
    "ViT": TINY | of_checkpoint("models/vision/vit"),
    "CLIP": TINY | of_checkpoint("models/vision/clip"),
}
SENTENCES = {
    "BERT": TEXT | {"model.checkpoint": str(TESTS / "models/checkpoints/bert")},
    "DistilBERT": TEXT | of_checkpoint("models/text/distilbert"),
    "ModernBERT": TEXT | of_checkpoint("models/text/modernbert"),
    "MPNet": TEXT | of_checkpoint("models/text/mpnet"),
    "RoBERTa": TEXT | of_checkpoint("models/text/roberta"),
}
PROGRAMS = IMAGES | SENTENCES


def case(name: str):
    """The common two by default."""
    marks = [] if name in ("ImageNet stem", "BERT") else [pytest.mark.long]
    return pytest.param(PROGRAMS[name], marks=marks, id=name)


@pytest.mark.parametrize("changes", map(case, PROGRAMS))
def test_no_training_program_sums_into_colliding_indices(changes):
    config = method_config("rg", changes)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        traced, _ = lowered_program(config, spec_task(config), jax.devices()[:1], "cuda", 2**40)
    assert colliding_sums(traced) == []


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_has_a_gradient_that_sums_into_colliding_indices(name):
    loss, labels = LOSSES[name], jnp.array([0, 2, 1, 2])
    settings = {"gamma": 2.0, "tau": 1.0, "max_m": 0.5, "s": 30.0}
    arguments = loss.arguments(settings, ClassStats(np.array([5, 6, 7])))
    gradient = jax.jit(jax.grad(lambda logits: loss.function(logits, labels, **arguments).sum()))
    assert colliding_sums(gradient.trace(jnp.ones((4, 3)))) == []


def test_colliding_sums_are_seen():
    x, rows = jnp.ones((6, 4)), jnp.array([1, 1, 3])
    assert len(colliding_sums(jax.jit(lambda x: x.at[rows].add(1.0)).trace(x))) == 1
    assert colliding_sums(jax.jit(lambda x: x.at[rows].add(1.0, unique_indices=True)).trace(x)) == []
    pooled = jax.jit(jax.grad(lambda x: linen.max_pool(x, (3, 3), (2, 2)).sum()))
    assert len(colliding_sums(pooled.trace(jnp.ones((2, 7, 7, 3))))) == 1


def colliding_sums(traced: jax.stages.Traced) -> list[str]:
    """The scatters of a program that XLA may compile to atomic additions on a GPU."""
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    lines = re.findall(r'"stablehlo\.(?:select_and_)?scatter".*', text)
    return [line for line in lines if "unique_indices = true" not in line]
