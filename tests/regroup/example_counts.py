"""The table of README.md on weights and priors: `uv run python -m tests.regroup.example_counts`."""

from rgjax.metrics import balanced_accuracy
from rgjax.regroup import AGGREGATIONS
from rgjax.regroup.aggregation import class_logits
from tests.support.pseudo_classes import CIFAR, HAM, PHRASEBANK, class_likelihood, optimal_logits, simulated

CASES = ((PHRASEBANK, "ratio", 0), (HAM, "ratio", 0), (HAM, "target", 146), (CIFAR, "ratio", 0), (CIFAR, "target", 800))
LOSSES = ({"name": "ce"}, {"name": "wce", "stats": "pseudo"}, {"name": "wce", "stats": "class"})

for counts, rule, threshold in CASES:
    likelihood, parent, sizes, labels = simulated(counts, rule, threshold, each=1000)

    def ba(logits, labels=labels):
        return f"{100 * balanced_accuracy(labels, logits.argmax(axis=1), logits.shape[1]):.1f}"

    cells = [
        ba(class_logits(optimal_logits(loss, likelihood, parent, sizes), parent, how))
        for how in AGGREGATIONS
        for loss in LOSSES
    ]
    best = ba(class_likelihood(likelihood, parent, sizes))
    print("|", " | ".join([", ".join(map(str, counts)), f"`{rule}`, {threshold}", *cells, best]), "|")
