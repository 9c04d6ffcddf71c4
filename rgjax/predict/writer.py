"""Predictions as rows of a CSV file or lines of JSON."""

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rgjax.predict.neighbors import Neighbors
from rgjax.predict.predictor import Outputs
from rgjax.predict.run import FinishedRun


class PredictionWriter:
    """Writes predictions to a file, one row each, as CSV or as lines of JSON."""

    def __init__(self, file: TextIO, form: str, run: FinishedRun, neighbors: Neighbors | None, num_neighbors: int):
        """Write the heading, if the format has one.

        Args:
            file: open for writing.
            form: "csv" or "jsonl".
            run: the run that predicts.
            neighbors: its training examples; None leaves the columns of neighbors empty.
            num_neighbors: the number of these columns.
        """
        self._file, self._form, self._run = file, form, run
        self._neighbors, self._num_neighbors = neighbors, num_neighbors
        self._columns = [
            *("id", "class"),
            *(f"p_{name}" for name in run.class_names),
            *("group", "group_class", "group_probability"),
            *(f"neighbor_{i + 1}" for i in range(num_neighbors)),
        ]
        if form == "csv":
            self._write([self._columns])

    def write(self, ids: Sequence[str], outputs: Outputs) -> None:
        """Write the rows of n inputs from the network's outputs for them."""
        names, parent = self._run.class_names, self._run.regrouping.parent
        weights = np.exp(outputs.logits - outputs.logits.max(axis=1, keepdims=True))
        groups, group_probabilities = weights.argmax(axis=1), weights.max(axis=1) / weights.sum(axis=1)
        nearest: list[list[str]] = [[] for _ in ids]
        if self._neighbors:
            nearest = self._neighbors.nearest(outputs.features, groups, self._num_neighbors)
        columns = zip(ids, outputs.probabilities, groups, group_probabilities, nearest, strict=True)
        self._write(
            [
                *(identity, names[probabilities.argmax()], *map(_rounded, probabilities)),
                *(int(group), names[parent[group]], _rounded(group_probability)),
                *(neighbors + [""] * (self._num_neighbors - len(neighbors))),
            ]
            for identity, probabilities, group, group_probability, neighbors in columns
        )

    def _write(self, rows: Any) -> None:
        if self._form == "csv":
            csv.writer(self._file, lineterminator="\n").writerows(rows)
        else:
            self._file.writelines(json.dumps(dict(zip(self._columns, row, strict=True))) + "\n" for row in rows)
        self._file.flush()


def _rounded(probability: np.floating) -> float:
    return float(f"{probability:.6g}")


@contextmanager
def open_output(output: Path | None) -> Iterator[TextIO]:
    """Open standard output, or FILE.part, which is renamed to FILE on success.

    After a failure FILE.part keeps the rows written so far.
    """
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part")
    with open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file
    os.replace(part, output)
