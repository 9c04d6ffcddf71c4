"""Regrouping of tables beside imbalanced-learn's methods, by repeated stratified cross-validation.

    uv run python tests/regroup/example_table.py [--folds=5] [--repeats=5] [--only=digits]

Two tables that scikit-learn brings along. In the digits, the 8 against the rest, the large class hides nine kinds. The
breast tumours, with malignant ones left out until there is one to ten benign ones, hide none that is known.
"""

import argparse
import warnings

import numpy as np
from imblearn.datasets import make_imbalance
from imblearn.ensemble import BalancedRandomForestClassifier
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline
from imblearn.under_sampling import RandomUnderSampler
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RepeatedStratifiedKFold, StratifiedKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from rgjax.regroup import RegroupClassifier

SCORES = {"BA": "balanced_accuracy", "AP": "average_precision"}
INNER = LogisticRegression(max_iter=1000)
FOREST = RandomForestClassifier(random_state=0)


def tables():
    """(name, rows [N, D], whether a row is of the small class [N])."""
    x, digit = load_digits(return_X_y=True)
    yield "digits, 8 against the rest", x, digit == 8
    x, benign = load_breast_cancer(return_X_y=True)
    x, benign = make_imbalance(x, benign, sampling_strategy={0: 36, 1: 357}, random_state=0)
    yield "breast tumours, malignant against benign", x, benign == 0


def methods(large: int, small: int):
    """(name, estimator) for a training set with so many rows of the two classes."""
    yield "LogisticRegression", INNER
    yield '... class_weight="balanced"', clone(INNER).set_params(class_weight="balanced")
    yield "RandomUnderSampler", make_pipeline(RandomUnderSampler(random_state=0), INNER)
    yield "RandomOverSampler", make_pipeline(RandomOverSampler(random_state=0), INNER)
    yield "SMOTE", make_pipeline(SMOTE(random_state=0), INNER)
    yield "RegroupClassifier, max", RegroupClassifier(INNER, random_state=0)
    yield "RegroupClassifier, sum", RegroupClassifier(INNER, aggregate="sum", random_state=0)
    grid = {"threshold": [large // 2, large // 4, 2 * small, small], "aggregate": ["max", "sum"]}
    search = RegroupClassifier(INNER, rule="target", random_state=0)
    yield "... threshold, aggregate by grid", GridSearchCV(search, grid, scoring="balanced_accuracy", cv=inner_folds())
    yield "... random groups, max", RegroupClassifier(INNER, clustering="random", random_state=0)
    yield "RandomForest", FOREST
    yield "BalancedRandomForest", BalancedRandomForestClassifier(random_state=0)
    yield "RegroupClassifier of a RandomForest", RegroupClassifier(FOREST, random_state=0)


def inner_folds() -> StratifiedKFold:
    return StratifiedKFold(3, shuffle=True, random_state=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="a part of a table's name")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to each other
    for name, x, y in (table for table in tables() if given.only in table[0]):
        print(f"\n{name}: {len(y)} rows, {y.sum()} of the small class; n = {given.folds * given.repeats} test folds\n")
        print("| method | BA % | AP % | s a fit |\n|---|---|---|---|", flush=True)
        folds = RepeatedStratifiedKFold(n_splits=given.folds, n_repeats=given.repeats, random_state=0)
        share = 1 - 1 / given.folds
        for method, estimator in methods(int((~y).sum() * share), int(y.sum() * share)):
            found = cross_validate(make_pipeline(StandardScaler(), estimator), x, y, scoring=SCORES, cv=folds)
            cells = [
                f"{100 * np.mean(v):.1f} ± {100 * np.std(v, ddof=1):.1f}" for v in (found["test_BA"], found["test_AP"])
            ]
            print(f"| {method} | {' | '.join(cells)} | {np.median(found['fit_time']):.2f} |", flush=True)


if __name__ == "__main__":
    main()
