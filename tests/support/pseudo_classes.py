"""Examples of known densities, and the logits that minimize a loss on them."""

import numpy as np
from scipy.special import logsumexp

from rgjax.config import method_config
from rgjax.losses import LOSSES, class_stats, scale_logits
from rgjax.regroup import cluster_counts

# Training examples of the classes of the paper's data sets, before the binary CIFAR-100 is split.
PHRASEBANK, HAM, CIFAR = [1842, 872, 387], [4291, 712, 703, 328, 208, 90, 73], [39600, 400]


def simulated(counts, rule, threshold, *, each=500, dimensions=8):
    """Draw `each` examples x of every class, whose groups are Gaussians of a unit variance.

    Returns:
        log p(x|k) + const [n, K], the class of each group k, the training examples of each k, and the classes [n].
    """
    rng = np.random.default_rng(0)
    groups = cluster_counts(np.array(counts), rule, threshold)
    parent = np.repeat(np.arange(len(counts)), groups)
    sizes = np.repeat(np.array(counts) // groups, groups)
    centers = 0.8 * rng.normal(size=(len(parent), dimensions))
    drawn = np.concatenate([rng.choice(np.flatnonzero(parent == c), each) for c in range(len(counts))])
    x = centers[drawn] + rng.normal(size=(len(drawn), dimensions))
    return -0.5 * np.square(x[:, None] - centers).sum(axis=2), parent, sizes, parent[drawn]


def optimal_logits(loss, likelihood, parent, sizes):
    """The logits [n, K] that minimize a loss, scaled as those of a finished run.

    `loss` has fields of the section `loss`.
    """
    config = method_config("ce", {f"loss.{name}": value for name, value in loss.items()}).loss
    stats = class_stats(config, sizes, parent)
    posterior = likelihood + np.log(sizes / sizes.sum())
    if config.name == "wce":
        posterior += np.log(LOSSES["wce"].weights(stats))
    if config.name == "la" and not config.posthoc:
        posterior -= np.log(LOSSES["la"].arguments(config, stats)["prior"])
    return np.asarray(scale_logits(config, stats, posterior))


def class_likelihood(likelihood, parent, sizes):
    """log p(x|c) + const [n, C], whose largest is the decision of the highest balanced accuracy."""
    members = [parent == c for c in range(parent.max() + 1)]
    return np.stack([logsumexp(likelihood[:, m], axis=1, b=sizes[m] / sizes[m].sum()) for m in members], axis=1)
