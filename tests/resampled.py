"""Simulate how often the intervals over splits and folds contain the true difference of two learners.

    uv run python -m tests.resampled --simulations=1000 [--seed=0]

Prints a Markdown table for nominal 95 % intervals. Each simulation draws a data set of two classes (30 % positives),
splits it, and trains two learners on every split: logistic regression, and logistic regression with class weights or
without half of the features. The truth is the mean difference of the learners when they train on as many examples of
new data sets and are tested on 20,000 examples.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from rgjax import metrics
from rgjax.report.statistics import estimate_mean

DIMENSIONS, POSITIVES, POPULATION = 8, 0.3, 20_000


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, D + 1], with a constant, and labels [n]; every second feature tells something."""
    labels = (rng.random(n) < POSITIVES).astype(int)
    features = rng.normal(size=(n, DIMENSIONS))
    features[:, ::2] += 0.5 * labels[:, None]
    return np.concatenate([features, np.ones((n, 1))], axis=1), labels


def fit(features: np.ndarray, labels: np.ndarray, *, balanced: bool) -> np.ndarray:
    """The weights of logistic regression with a small ridge, by Newton's method."""
    counts = np.bincount(labels, minlength=2)
    importance = (len(labels) / (2 * counts))[labels] if balanced else np.ones(len(labels))
    weights, ridge = np.zeros(features.shape[1]), np.eye(features.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (importance * (p - labels)) + ridge @ weights
        hessian = (features * (importance * p * (1 - p))[:, None]).T @ features + ridge
        weights -= np.linalg.solve(hessian, gradient)
    return weights


def score(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, metric: str) -> float:
    logits = features @ weights
    if metric == "BA":
        return metrics.balanced_accuracy(labels, (logits > 0).astype(int), 2)
    return float(metrics.average_precision(logits[:, None], 1 - labels)[0])


def difference(train: tuple, test: tuple, metric: str) -> float:
    """BA: class weights against none. AP: all features against the first half of them."""
    (x, y), (x_test, y_test) = train, test
    if metric == "BA":
        return score(x_test, y_test, fit(x, y, balanced=True), metric) - score(
            x_test, y_test, fit(x, y, balanced=False), metric
        )
    half = [*range(DIMENSIONS // 2), DIMENSIONS]
    return score(x_test, y_test, fit(x, y, balanced=False), metric) - score(
        x_test[:, half], y_test, fit(x[:, half], y, balanced=False), metric
    )


def random_splits(n: int, repeats: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Whether each example is a test example: a fifth of them."""
    for _ in range(repeats):
        yield np.isin(np.arange(n), rng.permutation(n)[: n // 5])


def folds(n: int, number: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(draws):
        assignment = rng.permutation(np.arange(n) % number)
        yield from (assignment == fold for fold in range(number))


DESIGNS: dict[str, tuple[float, Callable[[int, np.random.Generator], Iterator[np.ndarray]]]] = {
    "3 splits": (0.2, lambda n, rng: random_splits(n, 3, rng)),
    "5 splits": (0.2, lambda n, rng: random_splits(n, 5, rng)),
    "10 splits": (0.2, lambda n, rng: random_splits(n, 10, rng)),
    "5 folds": (0.2, lambda n, rng: folds(n, 5, 1, rng)),
    "5 folds, drawn twice": (0.2, lambda n, rng: folds(n, 5, 2, rng)),
    "10 folds": (0.1, lambda n, rng: folds(n, 10, 1, rng)),
}


def simulate(design: str, metric: str, n: int, simulations: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Coverage and mean width of the corrected intervals, then of the plain ones."""
    share, splits = DESIGNS[design]
    population, trained = draw(POPULATION, rng), round(n * (1 - share))
    truth = np.mean([difference(draw(trained, rng), population, metric) for _ in range(simulations)])
    results = []
    for _ in range(simulations):
        x, y = draw(n, rng)
        values = [difference((x[~test], y[~test]), (x[test], y[test]), metric) for test in splits(n, rng)]
        defined = [value for value in values if not np.isnan(value)]  # a fold without positives has no AP
        for overlap in (share / (1 - share), 0.0):
            low, high = estimate_mean(defined, overlap).interval or (np.nan, np.nan)
            results.append((low <= truth <= high, high - low))
    corrected, plain = results[::2], results[1::2]
    return *np.mean(corrected, axis=0), *np.mean(plain, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| splits | metric | examples | corrected | plain |\n| --- | --- | --- | --- | --- |")
    for design in DESIGNS:
        for metric in ("BA", "AP"):
            for n in (200, 1000):
                rng = np.random.default_rng(options.seed)
                share, width, plain, narrow = simulate(design, metric, n, options.simulations, rng)
                cells = (f"{100 * share:.1f} ({100 * width:.1f})", f"{100 * plain:.1f} ({100 * narrow:.1f})")
                print("| " + " | ".join([design, metric, f"{n:,}", *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
