"""Weights, priors and margins balance the classes, however these are split and sampled.

The logits are those that minimize the expected loss where all densities are known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax import experiment
from rgjax.artifacts import write_start
from rgjax.config import VARIANTS, ablations, identity, method_config
from rgjax.errors import UserError
from rgjax.losses import LOSSES, class_stats, scale_logits
from rgjax.metrics import balanced_accuracy
from rgjax.predict.run import load_run
from rgjax.regroup import AGGREGATIONS
from rgjax.regroup.aggregation import class_logits
from rgjax.storage.files import read_json_object, write_json
from rgjax.training.trainer import Trial
from tests.support.features import write_features
from tests.support.finished import digits_run
from tests.support.pseudo_classes import CIFAR, HAM, PHRASEBANK, class_likelihood, optimal_logits, simulated

LONG = pytest.mark.long
LOSS = {"wce": {"name": "wce"}, "la": {"name": "la"}, "post-hoc la": {"name": "la", "posthoc": True}}
CASES = [
    *((PHRASEBANK, "ratio", 0), (PHRASEBANK, "target", 300), (HAM, "ratio", 200), (HAM, "target", 200)),
    *((CIFAR, "ratio", 0), (CIFAR, "target", 600)),
]


@pytest.mark.parametrize(("counts", "rule", "threshold"), CASES)
def test_class_counts_balance_the_classes(counts, rule, threshold):
    likelihood, parent, sizes, labels = simulated(counts, rule, threshold)
    best = class_likelihood(likelihood, parent, sizes)

    def ba(loss, how):
        decisions = class_logits(optimal_logits(loss, likelihood, parent, sizes), parent, how).argmax(axis=1)
        return 100 * balanced_accuracy(labels, decisions, len(counts))

    optimum = 100 * balanced_accuracy(labels, best.argmax(axis=1), len(counts))
    for loss in LOSS.values():
        logits = class_logits(optimal_logits(loss, likelihood, parent, sizes), parent, "sum")
        np.testing.assert_allclose(np.ptp(logits - best, axis=1), 0, atol=1e-3)  # equal up to a constant
        plain, pseudo, balanced = (
            ba(one, "max") for one in ({"name": "ce"}, loss | {"stats": "pseudo"}, loss | {"stats": "class"})
        )
        # The largest of many overlapping groups is a part of its class only, which "max" takes for the whole. This
        # favors small classes too, and suffices where classes are nearly equal.
        assert balanced > optimum - 6
        assert balanced > max(plain, pseudo) + (5 if max(counts) > 10 * min(counts) else -1.5)
        assert ba(loss | {"stats": "pseudo"}, "sum") < optimum - 2


def test_the_logits_are_those_that_minimize_the_losses():
    rng = np.random.default_rng(1)
    parent, sizes = np.array([0, 0, 0, 1, 2, 2]), np.array([40, 25, 5, 30, 9, 1])
    posterior = rng.dirichlet(np.ones(6))
    for name in ("wce", "la"):
        config = method_config("ce", {"loss.name": name}).loss
        stats, loss = class_stats(config, sizes, parent), LOSSES[name]
        density = np.log(posterior) - np.log(sizes / sizes.sum())
        z = jnp.asarray(optimal_logits({"name": name}, density, parent, sizes), jnp.float32)
        labels, weights = jnp.arange(6, dtype=jnp.int32), np.float32(posterior) * loss.weights(stats)

        def risk(z, config=config, stats=stats, loss=loss, labels=labels, weights=weights):
            losses = loss.function(jnp.tile(z, (6, 1)), labels, **loss.arguments(config, stats))
            return (weights * losses).sum()

        np.testing.assert_allclose(jax.grad(risk)(z), 0, atol=1e-6)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_post_hoc_adjustment_is_the_same_before_and_after_aggregation(how):
    rng = np.random.default_rng(2)
    parent, sizes, logits = np.array([0, 0, 0, 1, 1]), np.array([50, 30, 10, 7, 3]), rng.normal(size=(9, 5))
    config = method_config("ce", {"loss.name": "la", "loss.posthoc": True, "loss.tau": 1.5}).loss
    adjusted = np.asarray(scale_logits(config, class_stats(config, sizes, parent), logits))
    of_pseudo_classes, of_classes = class_logits(adjusted, parent, how), class_logits(logits, parent, how)
    np.testing.assert_allclose(of_pseudo_classes, of_classes - 1.5 * np.log([0.9, 0.1]), atol=1e-6)


def test_margins_and_weights_do_not_depend_on_the_split():
    config = method_config("ce", {}).loss
    whole = class_stats(config, np.array([90, 10]), np.arange(2))
    split = class_stats(config, np.array([50, 30, 10, 10]), np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(split.unit_margins, whole.unit_margins[[0, 0, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(split.prior, whole.prior[[0, 0, 0, 1]], rtol=1e-6)
    for weights in ("inverse_weights", "effective_weights"):
        of_split, of_whole = (getattr(stats, weights) for stats in (split, whole))
        of_split, of_whole = (w() if callable(w) else w for w in (of_split, of_whole))
        total = np.array([90 * of_split[0], 10 * of_split[3]])  # of all examples of a class
        np.testing.assert_allclose(total / total.sum(), (w := of_whole * [90, 10]) / w.sum(), rtol=1e-6)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = write_features(tmp_path_factory.mktemp("features") / "blobs.npz")
    shared = {"data.name": "features", "data.manual_dir": str(place), "model.name": "mlp", "train.batch_size": 16}

    def prepare(method, sampler):
        config = method_config(method, shared)
        config.sampler = sampler
        if config.regroup.clustering == "kmeans":
            config.regroup.clustering = "random"
        return experiment.prepare(config), config

    return prepare


@pytest.mark.parametrize("sampler", ["ros", "rus", *(pytest.param(name, marks=LONG) for name in ("rusc", "deepsmote"))])
def test_a_sampler_that_balances_the_classes_leaves_nothing_to_weights_priors_and_margins(prepared, sampler):
    task, config = prepared("la", sampler)
    stats = task.class_stats(config.loss)
    assert np.ptp(stats.inverse_weights) == np.ptp(stats.prior) == np.ptp(stats.unit_margins) == 0
    assert stats.prior.sum() == pytest.approx(1)


def test_counts_of_pseudo_classes_are_those_of_the_pool(prepared):
    task, config = prepared("rg_wce", "ros")
    assert np.ptp(task.class_stats(config.loss).inverse_weights) == 0
    drawn = np.bincount(task.labels[task.pool])
    with config.unlocked():
        config.loss.stats = "pseudo"
    np.testing.assert_array_equal(task.class_stats(config.loss).counts, drawn)
    task, _ = prepared("rg_wce", "none")
    np.testing.assert_array_equal(task.counts, task.regrouping.counts)


def test_a_run_of_an_older_version_does_not_resume_with_other_counts(prepared, tmp_path):
    task, config = prepared("wce", "ros")
    trial = Trial(config, tmp_path, only_scores=True)
    write_start(task, trial)
    write_start(task, trial)
    provenance = read_json_object(tmp_path / "provenance.json")
    del provenance["fingerprints"]["counts of the sampler"]
    write_json(tmp_path / "provenance.json", provenance)
    with pytest.raises(UserError, match="its run began with different counts of the sampler; use another --workdir"):
        write_start(task, trial)


def test_a_pseudo_class_that_the_sampler_missed_counts_as_one():
    config = method_config("ce", {"loss.stats": "pseudo"}).loss
    assert class_stats(config, np.array([0, 5, 5]), np.array([0, 0, 1])).counts.tolist() == [1, 5, 5]


@pytest.mark.long
def test_predictions_adjust_by_the_counts_of_the_run():
    workdir = digits_run("la", **{"loss.posthoc": True, "sampler": "ros"})
    run = load_run(workdir, flag="--workdir", ways_out="")
    assert np.ptp(np.bincount(run.regrouping.parent, run.counts)) == 0 and np.ptp(run.regrouping.class_counts) > 0


def test_where_counts_make_no_difference_runs_keep_their_names():
    for method in ("ce", "wce", "la", "rg", "rg_focal", "rusc"):
        of_default, of_pseudo = (identity(method_config(method, {"loss.stats": s})) for s in ("class", "pseudo"))
        assert of_default == of_pseudo
    for method in ("rg_wce", "rg_la", "rg_ldam"):
        assert identity(method_config(method, {}))["loss.stats"] == "class"
    deferred = method_config("rg", {"loss.drw_start_percent": 80.0})
    assert identity(deferred)["loss.stats"] == "class"


def test_pseudo_class_counts_are_an_ablation_of_each_method_that_counts():
    grid = {"regroup.rule": ("ratio",), "regroup.threshold": (0,)}
    points = list(ablations(grid, variants=["pseudo-class counts"]))
    assert [point["method"] for point in points] == ["rg_wce", "rg_ldam", "rg_la"]
    assert VARIANTS["pseudo-class counts"] == {"loss.stats": "pseudo"}
