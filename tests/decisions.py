"""What decisions made on few and on many validation examples are worth, beside other ways.

    uv run python -m tests.decisions --seeds=10
    uv run python -m tests.decisions --runs=FOLDER

The first prints the BA on the population of Gaussian mixtures with known posteriors, the second the BA on the test
split of finished runs (their predictions.npz), decided on subsets of their validation split.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from rgjax.decision import fit_decision
from rgjax.decision.offsets import best_offsets
from rgjax.metrics import balanced_accuracy
from rgjax.regroup.aggregation import AGGREGATIONS, class_logits
from tests.support.mixtures import Mixture

MIXTURES = {
    "2 classes": Mixture(),
    "7 classes": Mixture(7, 60),
    "7 classes, biased": Mixture(7, 60, bias=1),
    "7 classes, biased, noisy": Mixture(7, 60, bias=1, noise=1),
    "7 classes, unequal slopes": Mixture(7, 60, temperature=1, bias=1, slopes=0.4),
    "30 classes": Mixture(30, 50, 16, bias=0.5),
}


def exact(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Offsets that maximize the BA that the labels show, without shrinkage."""
    counts = np.bincount(labels, minlength=logits.shape[1])
    gains = np.eye(len(counts))[labels] / np.maximum(counts, 1)
    start = np.where(counts > 0, np.log(counts.max() / np.maximum(counts, 1)), 0.0)
    return best_offsets(log_softmax(logits, axis=1), labels, gains, {}, [np.zeros(len(counts)), start])


def prior(_: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Post-hoc logit adjustment (Menon et al. 2021): minus the log-prevalences."""
    return -np.log(np.bincount(labels, minlength=classes) + 0.5)


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "argmax": lambda logits, labels: np.zeros(logits.shape[1]),
    "logit adjustment": lambda logits, labels: prior(logits, labels, logits.shape[1]),
    "highest BA on validation": exact,
    "ours": lambda logits, labels: fit_decision(logits, labels, [str(c) for c in range(logits.shape[1])]).offsets,
}


def by_way(val: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """BA in % of each way, decided on `val` and measured on `test`: labels and logits."""
    log_probs = log_softmax(test[1], axis=1)
    predictions = {name: (log_probs + way(val[1], val[0])).argmax(axis=1) for name, way in WAYS.items()}
    return {name: 100 * balanced_accuracy(test[0], labels, log_probs.shape[1]) for name, labels in predictions.items()}


def print_table(rows: Iterable[tuple[str, int, dict[str, list[float]]]]) -> None:
    """A line per case: mean, and standard deviation over the seeds or runs of the difference to ours."""
    for number, (case, n, scores) in enumerate(rows):
        if number == 0:
            print("| case | n |", " | ".join(scores), "|\n|---|---|", "---|" * len(scores), sep="")
        cells = [
            f"{np.mean(values):.1f}"
            + ("" if name == "ours" else f" ({np.std(np.subtract(values, scores['ours'])):.1f})")
            for name, values in scores.items()
        ]
        print(f"| {case} | {n} |", " | ".join(cells), "|", flush=True)


def mixtures(seeds: int) -> Iterator[tuple[str, int, dict[str, list[float]]]]:
    for name, mixture in MIXTURES.items():
        for n in (50, 218, 2000, 10_000):
            scores = defaultdict(list)
            for seed in range(seeds):
                val, (labels, logits, best) = mixture.draw(seed, n, 30_000, balanced=True)
                scores["Bayes"].append(100 * balanced_accuracy(labels, best.argmax(axis=1), mixture.classes))
                for way, ba in by_way(val[:2], (labels, logits)).items():
                    scores[way].append(ba)
            yield name, n, scores


def runs(folder: Path) -> Iterator[tuple[str, int, dict[str, list[float]]]]:
    paths = sorted(folder.glob("**/predictions.npz"))
    for n in (50, 218, 600, 10**9):
        scores, used = defaultdict(list), 0
        for seed, path in enumerate(paths):
            with np.load(path) as file:
                arrays = dict(file)
            parent, labels = arrays["parent"], arrays["val_labels"]
            chosen = np.random.default_rng(seed).permutation(len(labels))[:n]
            used = len(chosen)
            for how in AGGREGATIONS[: 1 + (len(parent) > parent.max() + 1)]:
                val, test = (class_logits(arrays[f"{split}_logits"], parent, how) for split in ("val", "test"))
                for way, ba in by_way((labels[chosen], val[chosen]), (arrays["test_labels"], test)).items():
                    scores[way].append(ba)
        yield f"{len(paths)} runs", used, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    print_table(runs(arguments.runs) if arguments.runs else mixtures(arguments.seeds))
    for n, classes in () if arguments.runs else ((1600, 2), (1600, 7), (10_000, 7), (2000, 100), (10_000, 100)):
        [(labels, logits, _)] = Mixture(classes, 60, 16).draw(0, n)
        times = []
        for _ in range(5):
            start = time.process_time()
            WAYS["ours"](logits, labels)
            times.append(1000 * (time.process_time() - start))
        print(f"a fit on {n} examples of {classes} classes: {np.median(times):.0f} ms of CPU time")


if __name__ == "__main__":
    main()
