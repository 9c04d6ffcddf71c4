"""What the least size of a group does to the scores where classes are very unequal.

    python tests/regroup/example_floor.py [--seeds=N]

Prints a table in Markdown: logistic regression on standardized features, 240 training samples of one class and 3 of the
other, tested on the rest.
"""

import sys

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rgjax.regroup import RegroupClassifier

FLOORS = (1, 2, 3, 5, 8, 15)


def scores(x, y, floor, seed):
    """Balanced accuracy and average precision of the rare class in %, and the number of groups."""
    rng = np.random.default_rng(seed)
    many, few = (rng.permutation(np.flatnonzero(y == c)) for c in (0, 1))
    train = np.concatenate([many[:240], few[:3]])
    test = np.concatenate([many[240:], few[3:]])
    inner = RegroupClassifier(LogisticRegression(max_iter=300), min_group_size=floor, n_init=3, random_state=seed)
    model = make_pipeline(StandardScaler(), inner).fit(x[train], y[train])
    accuracy = balanced_accuracy_score(y[test], model.predict(x[test]))
    precision = average_precision_score(y[test], model.decision_function(x[test]))
    return 100 * accuracy, 100 * precision, inner.n_pseudo_classes_


def main(arguments):
    seeds = int(arguments[0].removeprefix("--seeds=")) if arguments else 10
    digits, cells = load_digits(), load_breast_cancer()
    data = {
        "digits, 8": (digits.data, (digits.target == 8).astype(int)),
        "breast tumors": (cells.data, (cells.target == 0).astype(int)),
    }
    print("| `min_group_size` |", " | ".join(f"{name}: BA % | AP % | groups" for name in data), "|")
    print("|---" * (1 + 3 * len(data)) + "|")
    for floor in FLOORS:
        cells = []
        for x, y in data.values():
            runs = np.array([scores(x, y, floor, seed) for seed in range(seeds)])
            means, spread = runs.mean(axis=0), runs.std(axis=0, ddof=1)
            cells += [f"{means[i]:.1f} ± {spread[i]:.1f}" for i in (0, 1)] + [f"{means[2]:.0f}"]
        print(f"| {floor} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
