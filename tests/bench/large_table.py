"""Time and peak memory of each command on a large table of features.

    uv run python tests/bench/large_table.py --rows=1000000 --features=64 --folder=FOLDER

writes a parquet table of five classes to FOLDER, which must be new, and runs `inspect`, a head on 20 pseudo-classes
(`main`) and `report`. The last lines are the times of the intervals on test sets of 200,000 x 7 and 1,000,000 x 2.
"""

import argparse
import os
import subprocess
import sys
import time
from multiprocessing import Process
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rgjax import metrics

_SHARES = (0.6, 0.2, 0.1, 0.06, 0.04)
_LARGEST_GROUP = 0.032  # of all rows: 12, 4, 2, 1 and 1 groups


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    table, runs = options.folder / "table.parquet", options.folder / "runs"
    options.folder.mkdir(parents=True)
    writer = Process(target=write_table, args=(table, options.rows, options.features))  # a child's peak includes ours
    writer.start()
    writer.join()
    threshold = int(options.rows * _LARGEST_GROUP)
    groups = ["--config.regroup.rule=target", f"--config.regroup.threshold={threshold}"]
    run("rgjax.data.inspect", str(table), "--rule=target", f"--threshold={threshold}")
    words = ["--config=configs/features.py:rg", f"--config.data.manual_dir={table}", *groups]
    run("rgjax.main", *words, f"--workdir={runs / 'rg'}")
    run("rgjax.report", str(runs))
    for rows, classes in ((200_000, 7), (1_000_000, 2)):
        rng = np.random.default_rng(0)
        labels = rng.integers(classes, size=rows)
        logits = rng.normal(size=(rows, classes)) + np.eye(classes)[labels]
        start, cpu = time.perf_counter(), time.process_time()
        metrics.confidence_intervals(logits, labels)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"intervals, {rows:,} x {classes}: {seconds:.1f} s, CPU {cpu:.1f} s", flush=True)


def write_table(path: Path, rows: int, features: int) -> None:
    """Five classes, each of eight blobs that overlap with those of other classes."""
    rng = np.random.default_rng(0)
    labels = rng.choice(len(_SHARES), rows, p=_SHARES)
    blobs = rng.normal(size=(len(_SHARES), 8, features)).astype(np.float32)
    values = rng.standard_normal((rows, features), np.float32) * 2 + blobs[labels, rng.integers(8, size=rows)]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), features)
    columns = {"id": np.char.add("example-", np.arange(rows).astype(str)), "label": np.array([*"abcde"])[labels]}
    parquet.write_table(pa.table({**columns, "features": lists}), path)


def run(module: str, *arguments: str) -> None:
    """Run a command; print its wall time, its CPU time and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    seconds, peak = time.perf_counter() - start, usage.ru_maxrss / 2**20
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{module}: {seconds:.0f} s, CPU {cpu:.0f} s, peak {peak:.2f} GiB, exit {status >> 8}", flush=True)


if __name__ == "__main__":
    main()
