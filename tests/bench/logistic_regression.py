"""Compare runs with scikit-learn's logistic regression on the same features and split.

    python -m rgjax.encoders --config=FILE --config.data.manual_dir=DATA --output=features.npz
    python -m tests.bench.logistic_regression features.npz WORKDIR ...

The features are standardized by the training split; C is 1, as by default.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="what rgjax.encoders wrote")
    parser.add_argument("workdirs", type=Path, nargs="+", help="finished runs on the same data and split")
    arguments = parser.parse_args()
    with np.load(arguments.features) as file:
        features, labels, splits = (file[name] for name in ("features", "labels", "splits"))
    print(f"{'':34}{'BA %':>7}{'macro AP %':>12}")
    for weights in (None, "balanced"):
        started = time.perf_counter()
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight=weights, max_iter=1000))
        model.fit(features[splits == "train"], labels[splits == "train"])
        seconds = time.perf_counter() - started
        test = splits == "test"
        probabilities = model.predict_proba(features[test])
        ba = balanced_accuracy_score(labels[test], probabilities.argmax(1))
        ap = average_precision_score(np.eye(probabilities.shape[1])[labels[test]], probabilities, average="macro")
        _print(f"LogisticRegression, {weights or 'unweighted'}", ba, ap, f"fit in {seconds:.1f} s")
    for workdir in arguments.workdirs:
        result = json.loads((workdir / "result.json").read_text())
        if result["test"]["n"] != int(test.sum()):
            parser.error(f"{workdir}: was tested on {result['test']['n']} examples, the file has {int(test.sum())}")
        _print(f"{result['method']}, seed {result['seed']}", result["test"]["ba"], result["test"]["macro_ap"], "")


def _print(name: str, ba: float, ap: float, note: str):
    print(f"{name:34}{100 * ba:7.1f}{100 * ap:12.1f}   {note}".rstrip())


if __name__ == "__main__":
    main()
