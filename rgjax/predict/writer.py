"""Predictions as rows of a CSV file or lines of JSON."""

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from rgjax.predict.neighbors import Neighbors
from rgjax.predict.predictor import Outputs, Predictor


class Form(NamedTuple):
    """What a row of predictions holds, and how it is written.

    Attributes:
        format: "csv" or "jsonl".
        decision: of the class, "argmax" or "tuned".
        calibrated: whether the probabilities are.
        neighbors: the number of their columns.
    """

    format: str
    decision: str
    calibrated: bool
    neighbors: int


class PredictionWriter:
    """Writes predictions to a file, one row each, as CSV or as lines of JSON."""

    def __init__(self, file: TextIO, form: Form, predictor: Predictor, neighbors: Neighbors | None):
        """Write the heading, if the format has one.

        Args:
            file: open for writing.
            form: of the rows.
            predictor: of the run that predicts.
            neighbors: its training examples; None leaves the columns of neighbors empty.
        """
        self._file, self._form, self._predictor, self._neighbors = file, form, predictor, neighbors
        self._temperature = predictor.decision.temperature if form.calibrated else 1.0
        self._columns = [
            *("id", "class"),
            *(f"p_{name}" for name in predictor.run.class_names),
            *("group", "group_class", "group_probability"),
            *(f"neighbor_{i + 1}" for i in range(form.neighbors)),
            *("decision", "temperature"),
        ]
        if form.format == "csv":
            self._write([self._columns])

    def write(self, ids: Sequence[str], outputs: Outputs) -> None:
        """Write the rows of n inputs from the network's outputs for them."""
        form, run = self._form, self._predictor.run
        names, parent = run.class_names, run.regrouping.parent
        classes = self._predictor.labels(outputs, decision=form.decision)
        probabilities = self._predictor.probabilities(outputs, calibrated=form.calibrated)
        weights = np.exp(outputs.logits - outputs.logits.max(axis=1, keepdims=True))
        groups, group_probabilities = weights.argmax(axis=1), weights.max(axis=1) / weights.sum(axis=1)
        nearest: list[list[str]] = [[] for _ in ids]
        if self._neighbors:
            nearest = self._neighbors.nearest(outputs.features, groups, form.neighbors)
        columns = zip(ids, classes, probabilities, groups, group_probabilities, nearest, strict=True)
        self._write(
            [
                *(identity, names[label], *map(_rounded, row)),
                *(int(group), names[parent[group]], _rounded(group_probability)),
                *(neighbors + [""] * (form.neighbors - len(neighbors))),
                *(form.decision, _rounded(self._temperature)),
            ]
            for identity, label, row, group, group_probability, neighbors in columns
        )

    def _write(self, rows: Any) -> None:
        if self._form.format == "csv":
            csv.writer(self._file, lineterminator="\n").writerows(rows)
        else:
            self._file.writelines(json.dumps(dict(zip(self._columns, row, strict=True))) + "\n" for row in rows)
        self._file.flush()


def _rounded(number: float | np.floating) -> float:
    return float(f"{number:.6g}")


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
