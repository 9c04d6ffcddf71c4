"""A loss and a sampler are added from outside by the two steps that rgjax/README.md shows."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from rgjax import experiment
from rgjax.command import describe
from rgjax.config import FIELDS, METHODS, Field, Method, points, validate
from rgjax.losses import LOSSES, Loss, cross_entropy
from rgjax.sampling import SAMPLERS
from tests.support.finished import config_of

# Step one: the function and its entry in the registry of its room.


def poly1(logits, labels, epsilon):
    """CE + epsilon (1 - p_y) (Leng et al. 2022, eq. 3)."""
    ce = cross_entropy(logits, labels)
    return ce + epsilon * (1.0 - jnp.exp(-ce))


def square_root_sampling(labels, clusters, seed):
    """Each class in proportion to the square root of its size (Mahajan et al. 2018)."""
    rng, counts = np.random.default_rng(seed), np.bincount(labels)
    shares = np.sqrt(counts) / np.sqrt(counts).sum()
    pools = [rng.choice(np.flatnonzero(labels == c), round(len(labels) * share)) for c, share in enumerate(shares)]
    return np.concatenate(pools).astype(np.int32)


@pytest.fixture
def extended(monkeypatch):
    monkeypatch.setitem(
        LOSSES, "poly1", Loss(poly1, arguments=lambda config, stats: {"epsilon": np.float32(config["epsilon"])})
    )
    monkeypatch.setitem(SAMPLERS, "sqrt", square_root_sampling)

    # Step two, in config/: the choice, the field of the hyper-parameter, and the method with its grid.
    for field, name in (("loss.name", "poly1"), ("sampler", "sqrt")):
        monkeypatch.setitem(FIELDS, field, replace(FIELDS[field], choices=(*FIELDS[field].choices, name)))
    epsilon = Field(1.0, "poly1: weight of the first polynomial term", low=-1, high=100, traced=True)
    monkeypatch.setitem(FIELDS, "loss.epsilon", epsilon)
    monkeypatch.setitem(METHODS, "poly1", Method("Poly-1", {"loss.name": "poly1"}, {"loss.epsilon": (0.5, 1.0, 2.0)}))
    monkeypatch.setitem(METHODS, "sqrt", Method("Sqrt", {"sampler": "sqrt"}))


@pytest.mark.parametrize("method", ["poly1", "sqrt"])
def test_a_new_method_trains(extended, method, tmp_path):
    config = config_of(method, **{"regroup.clustering": "none"})
    validate(config)
    result = experiment.run(config, tmp_path)
    assert result["method"] == method
    assert 0 <= result["test"]["ba"] <= 1


def test_a_new_method_is_listed_and_searched(extended):
    assert all(name in describe() for name in ("poly1", "sqrt", "loss.epsilon"))
    grid = [point["loss.epsilon"] for point in points({}, methods=["poly1"])]
    assert grid == [0.5, 1.0, 2.0]
