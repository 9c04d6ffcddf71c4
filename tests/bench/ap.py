"""Class-wise average precision against scikit-learn, class by class."""

import numpy as np

from rgjax.metrics import average_precision
from tests.bench.case import Case

ROWS, CLASSES = 10_000, 100
CALLS = 10  # one takes 10 ms: after a pause, as long as the caches need to fill again


def ap() -> Case:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, ROWS)
    scores = rng.normal(size=(ROWS, CLASSES)) + 2 * np.eye(CLASSES)[labels]

    def theirs():
        return np.array([average_precision_score(labels == c, scores[:, c]) for c in range(CLASSES)])

    difference = np.abs(average_precision(scores, labels) - theirs()).max()
    facts = {"rows": ROWS, "classes": CLASSES, "precision": "float64", "largest_difference": float(difference)}
    return Case(
        ours=lambda: _repeat(lambda: average_precision(scores, labels)),
        theirs=lambda: _repeat(theirs),
        facts=facts | {"per_call": CALLS},
    )


def _repeat(work) -> None:
    for _ in range(CALLS):
        work()
