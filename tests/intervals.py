"""Simulate how often the intervals of AP, macro AP and balanced accuracy contain the truth.

    uv run python -m tests.intervals --simulations=2000 [--seed=0] [--held-out]

Prints Markdown tables for nominal 95 % intervals. Test sets come from the models of `tests.support.score_models`. For
comparison: the logit interval of Boyd, Eng & Page (2013), and the stratified percentile bootstrap (200 resamples, at
most 300 simulations, test sets of at most 1,000 examples). --held-out simulates AP alone, with the models and
prevalences that played no part in the choice of the method.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.special import expit, logit

from rgjax import metrics
from tests.support.score_models import HELD_OUT, MODELS, Model, coverage, draw, precision

POSITIVES, PREVALENCES, APS = (10, 20, 50, 100, 500), (0.01, 0.1, 0.5), (0.2, 0.5, 0.8, 0.95)
OTHER_PREVALENCES = (0.02, 0.05, 0.2)
COMPARED = ((10, 0.1), (20, 0.1), (50, 0.1), (100, 0.1), (500, 0.5))  # with other methods
BATCH = 50  # test sets drawn at a time
IMBALANCED = (500, 200, 100, 50, 20, 10, 5)
BA_CASES: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "2 x 10; .5, .5": ((10, 10), (0.5, 0.5)),
    "2 x 10; .9, .9": ((10, 10), (0.9, 0.9)),
    "2 x 10; .99, .99": ((10, 10), (0.99, 0.99)),
    "2 x 50; .02, .98": ((50, 50), (0.02, 0.98)),
    "2 x 100; .95, .95": ((100, 100), (0.95, 0.95)),
    "500, 10; .95, .5": ((500, 10), (0.95, 0.5)),
    "500, 10; .99, .8": ((500, 10), (0.99, 0.8)),
    "1000, 10; .99, .95": ((1000, 10), (0.99, 0.95)),
    "1000, 10; .99, .05": ((1000, 10), (0.99, 0.05)),
    "500 to 5; .95 to .4": (IMBALANCED, (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)),
    "500 to 5; 1 to .2": (IMBALANCED, (1, 0.99, 0.95, 0.9, 0.8, 0.6, 0.2)),
    "500 to 5; all .99": (IMBALANCED, (0.99,) * 7),
    "500 to 5; .99 to .02": (IMBALANCED, (0.99, 0.98, 0.97, 0.2, 0.1, 0.05, 0.02)),
    "20 x 5; all .9": ((5,) * 20, (0.9,) * 20),
    "20 x 10; .05 to .95": ((10,) * 20, tuple(np.linspace(0.05, 0.95, 20))),
    "100 x 1; all .8": ((1,) * 100, (0.8,) * 100),
    "100 x 2; all .8": ((2,) * 100, (0.8,) * 100),
    "100 x 10; 0 to 1": ((10,) * 100, tuple(np.linspace(0, 1, 100))),
    "100 x 10; all .99": ((10,) * 100, (0.99,) * 100),
    "100 x 100; .3 to 1": ((100,) * 100, tuple(np.linspace(0.3, 1, 100))),
}
MACRO_CASES = {
    "7 classes of 500 to 5": IMBALANCED,
    "7 classes of 20": (20,) * 7,
    "20 classes of 10": (10,) * 20,
    "100 classes of 10": (10,) * 100,
}


def ours(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Intervals [R, 2] of test sets with scores [N, R] and the same positives [N]."""
    return metrics.ap_intervals(scores, np.repeat(positive[:, None], scores.shape[1], axis=1))[0]


def boyd(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    n, labels = positive.sum(), np.where(positive, 0, 1)
    ap = np.array([metrics.average_precision(column[:, None], labels)[0] for column in scores.T])
    ap = np.clip(ap, 0.25 / n, 1 - 0.25 / n)
    return expit(logit(ap)[:, None] + np.outer(1 / np.sqrt(n * ap * (1 - ap)), [-1.96, 1.96]))


def bootstrap(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    rng, n = np.random.default_rng(0), positive.sum()
    weights = np.concatenate(
        [rng.multinomial(size, np.full(size, 1 / size), 200) for size in (n, len(positive) - n)], axis=1
    )
    return np.array([np.quantile(weighted_ap(column, positive, weights), [0.025, 0.975]) for column in scores.T])


def weighted_ap(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AP [R] of scores [N] under each row of weights [R, N]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # ties share a threshold
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, ends]
    drawn = np.cumsum(weights[:, order], axis=1)[:, ends]
    gains = np.diff(hits, axis=1, prepend=0)
    return (gains * hits / np.maximum(drawn, 1)).sum(axis=1) / hits[:, -1]


def simulate(method: Callable, cell: tuple, simulations: int, rng: np.random.Generator) -> tuple[float, float]:
    """Coverage and mean width in a cell: model, AP, prevalence, positives; half as many large test sets."""
    batches = simulations // BATCH
    sizes = [BATCH] * (batches // 2 if cell[3] / cell[2] > 20_000 else batches)
    return coverage(np.concatenate([method(*draw(*cell, size, rng)) for size in sizes]), cell[1])


def cells(prevalences: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    yield from ((n, p, ap) for n in POSITIVES for p in prevalences for ap in APS if ap > 1.5 * p)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |", flush=True)
    print(flush=True)


def coverage_tables(
    models: dict[str, Model], prevalences: Sequence[float], simulations: int, rng: np.random.Generator
) -> None:
    results = {
        (name, *cell): simulate(ours, (model, cell[2], cell[1], cell[0]), simulations, rng)
        for cell in cells(prevalences)
        for name, model in models.items()
    }

    def spread(chosen: Sequence[tuple[float, float]]) -> str:
        shares = [100 * share for share, _ in chosen]
        return f"{min(shares):.1f} to {max(shares):.1f}" if chosen else ""

    rows = []
    for n in POSITIVES:
        for p in prevalences:
            chosen = [[results[key] for key in results if key[1:] == (n, p, ap)] for ap in APS]
            rows.append([str(n), f"{100 * p:g} %", *map(spread, chosen)])
    print_table(["positives", "prevalence", *(f"AP {ap}" for ap in APS)], rows)

    rows = []
    for name in models:
        chosen = [[result for key, result in results.items() if key[:2] == (name, n)] for n in POSITIVES]
        inside = sum(0.93 <= share <= 0.97 for group in chosen for share, _ in group)
        rows.append([name, *map(spread, chosen), f"{inside} of {sum(map(len, chosen))}"])
    print_table(["model", *(f"{n} positives" for n in POSITIVES), "cells in 93 to 97"], rows)
    outside = [(value[0], *key) for key, value in results.items() if not 0.93 <= value[0] <= 0.97]
    for share, name, n, p, ap in sorted(outside, key=lambda row: row[0]):
        print(f"{100 * share:.1f}: {name}, {n} positives, {100 * p:g} %, AP {ap}")
    print()


def comparison_table(simulations: int, rng: np.random.Generator) -> None:
    methods = {"ours": ours, "Boyd": boyd, "bootstrap": bootstrap}
    rows = []
    for n, p in COMPARED:
        for ap in APS[2 * (p > 0.2) :]:
            row = [str(n), f"{100 * p:g} %", str(ap)]
            for name, method in methods.items():
                few = min(simulations, 300) if name == "bootstrap" else simulations
                share, width = simulate(method, (MODELS["equal variances"], ap, p, n), few, rng)
                row.append(f"{100 * share:.1f} ({100 * width:.1f})")
            rows.append(row)
    print_table(["positives", "prevalence", "AP", *methods], rows)


def macro_table(simulations: int, rng: np.random.Generator) -> None:
    rows = []
    for name, sizes in MACRO_CASES.items():
        labels = np.repeat(np.arange(len(sizes)), sizes)
        row = [name]
        for skill in (1.0, 2.0, 3.5):
            truth = macro_truth(np.array(sizes), skill, rng)
            intervals = []
            for _ in range(simulations):
                logits = rng.normal(size=(len(labels), len(sizes))) + skill * np.eye(len(sizes))[labels]
                intervals.append(metrics.confidence_intervals(logits, labels)["macro_ap"])
            share, width = coverage(np.array(intervals), truth)
            row.append(f"macro AP {100 * truth:.1f}: {100 * share:.1f} ({100 * width:.1f})")
        rows.append(row)
    print_table(["macro AP", "skill 1", "skill 2", "skill 3.5"], rows)


def macro_truth(sizes: np.ndarray, skill: float, rng: np.random.Generator) -> float:
    """Macro AP of logits N(0, 1) with `skill` added to the true class's: all classes differ by prevalence alone."""
    logits = rng.normal(size=(200_000, len(sizes)))
    negative = np.sort(log_odds_of_first(logits + skill * np.eye(len(sizes))[-1]))
    positive = np.sort(log_odds_of_first(logits + skill * np.eye(len(sizes))[0]))
    fpr = 1 - np.searchsorted(negative, positive) / len(negative)
    tpr = 1 - np.arange(len(positive)) / len(positive)
    return float(np.mean([precision(tpr, fpr, p).mean() for p in sizes / sizes.sum()]))


def log_odds_of_first(logits: np.ndarray) -> np.ndarray:
    return logits[:, 0] - np.log(np.exp(logits[:, 1:]).sum(axis=1))


def ba_table(simulations: int, rng: np.random.Generator) -> None:
    rows = []
    for name, (sizes, recalls) in BA_CASES.items():
        n, truth = np.array(sizes), float(np.mean(recalls))
        correct = rng.binomial(n, recalls, (simulations, len(n)))
        share, width = coverage(metrics.ba_interval(correct, n), truth)
        resampled = rng.binomial(n, correct[:300, None] / n, (min(simulations, 300), 1000, len(n))) / n
        old, old_width = coverage(np.quantile(resampled.mean(axis=2), [0.025, 0.975], axis=1).T, truth)
        rows.append([name, f"{100 * share:.1f} ({100 * width:.1f})", f"{100 * old:.1f} ({100 * old_width:.1f})"])
    print_table(["classes; recalls", "ours", "bootstrap"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    if options.held_out:
        coverage_tables(HELD_OUT, OTHER_PREVALENCES, options.simulations, rng)
        return
    coverage_tables(MODELS, PREVALENCES, options.simulations, rng)
    comparison_table(options.simulations, rng)
    ba_table(options.simulations, np.random.default_rng(options.seed))
    macro_table(options.simulations // 2, np.random.default_rng(options.seed))


if __name__ == "__main__":
    main()
