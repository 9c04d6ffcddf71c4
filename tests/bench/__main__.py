"""Time this repository against PyTorch, transformers, scikit-learn and others, side by side in one process.

    python -m tests.bench --json FILE [--only CASE,...] [--rounds N]

Seconds are medians per step (or fit); "ratio" is ours / theirs, so below 1 is faster, and for data_path_* it is the
share of a training step. All methods use all cores. Libraries that are not installed are not compared with.
"""

import argparse
import gc
import json
import os
from importlib import import_module
from pathlib import Path

from tests.bench import machine, report
from tests.bench.case import measure

MODULES = {
    "resnet34_32": "resnet",
    "resnet34_224": "resnet",
    "resnet34_32_cifar_stem": "resnet",
    "bert_step": "bert",
    "efficientnet_features": "efficientnet",
    "efficientnet_step": "efficientnet",
    "data_path_32": "resnet",
    "data_path_224": "resnet",
    "streamed_32": "resnet",
    "streamed_224": "resnet",
    "population4": "resnet",
    "kmeans_large": "kmeans",
    "kmeans_small": "kmeans",
    "kmeans_init": "kmeans",
    "kmeans_n_init": "kmeans",
    "balanced_step_large": "balanced",
    "balanced_step_small": "balanced",
    "balanced_large": "balanced",
    "balanced_small": "balanced",
    "ap": "ap",
}
SECONDS = 15.0  # of rounds for a case, if that many are more than the least: all cases in ten minutes on two cores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--only", help=f"cases, separated by commas, of {', '.join(MODULES)}")
    parser.add_argument("--rounds", type=int, help="of each case; otherwise 3 to 15, as the time allows")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(MODULES)
    if unknown := [name for name in names if name not in MODULES]:
        parser.error(f"there is no case {', '.join(unknown)}: the cases are {', '.join(MODULES)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    machine.default_waiting()
    results: dict[str, dict] = {"_machine": machine.describe()}
    print(report.HEADER, flush=True)
    for name in names:
        case = getattr(import_module(f"tests.bench.{MODULES[name]}"), name)()
        peak = machine.matmul_peak()
        result = measure(case, arguments.rounds, SECONDS) | {"threads": os.cpu_count()}
        results[name] = report.against_peak(result, max(peak, machine.matmul_peak()))
        print(report.row(name, results[name]), flush=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")  # after each: a broken run has its figures
        del case
        gc.collect()


if __name__ == "__main__":
    main()
