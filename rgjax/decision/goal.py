"""What a user wants of a decision instead of BA: low costs, or enough recall."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rgjax.console import local_path
from rgjax.errors import UserError, first_few, unknown

_CELL = "a table with the predicted classes in its first line and the true classes in its first column"


@dataclass(frozen=True)
class Goal:
    """Costs to minimize, or recalls to reach; with neither, BA is maximized.

    Attributes:
        costs: of each true class (rows) that is predicted as each class (columns).
        min_recall: class -> recall.
    """

    costs: Float[np.ndarray, "C C"] | None = None
    min_recall: Mapping[str, float] = field(default_factory=dict)

    @property
    def rule(self) -> str:
        return "costs" if self.costs is not None else "recall" if self.min_recall else "balanced accuracy"

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The rule, with its costs or recalls."""
        rows = () if self.costs is None else self.costs.tolist()
        costs = {true: dict(zip(class_names, row, strict=True)) for true, row in zip(class_names, rows, strict=False)}
        given = {"costs": costs, "min_recall": dict(self.min_recall)}
        return {"rule": self.rule} | {name: value for name, value in given.items() if value}

    def missed(self, recall: Mapping[str, float | None]) -> str:
        """Which recalls miss `min_recall`, for a message; "" if none does."""
        reached = {name: recall[name] for name in self.min_recall}
        missed = {name: r for name, r in reached.items() if r is None or r < self.min_recall[name] - 1e-12}
        return ", ".join(
            f"{name} reaches {r:.3g}" if r is not None else f"{name} has no examples" for name, r in missed.items()
        )


def read_goal(costs: str, min_recall: str, class_names: Sequence[str]) -> Goal:
    """The goal that the section `decision` of a config names. Raises UserError.

    Args:
        costs: path of a CSV or JSON file; "" for none.
        min_recall: "CLASS:RECALL,CLASS:RECALL"; "" for none.
        class_names: in the order of the logits.
    """
    if costs and min_recall:
        raise UserError("config.decision: costs and min_recall are both set; set one of them")
    matrix = _read_costs(local_path(costs), class_names) if costs else None
    return Goal(matrix, _parse_recalls(min_recall, class_names))


def _parse_recalls(spec: str, class_names: Sequence[str]) -> dict[str, float]:
    recalls: dict[str, float] = {}
    # A comma separates pairs if it follows a number, so that classes may have commas and colons in their names.
    for pair in re.split(r"(?<=[\d.]),(?=.*:)", spec) if spec.strip() else []:
        name, value = (part.strip() for part in pair.rpartition(":")[::2])
        if not name:
            raise UserError(f"config.decision.min_recall={spec}: '{pair}' is not CLASS:RECALL, e.g. mel:0.9")
        if name not in class_names:
            raise UserError(f"config.decision.min_recall={spec}: {unknown('class', name, class_names)}")
        if name in recalls:
            raise UserError(f"config.decision.min_recall={spec}: the class {name} occurs twice")
        recalls[name] = _number(value)
        if not 0 < recalls[name] <= 1:
            raise UserError(f"config.decision.min_recall={spec}: '{value}' is no recall above 0 and up to 1, e.g. 0.9")
    return recalls


def _read_costs(path: Path, class_names: Sequence[str]) -> Float[np.ndarray, "C C"]:
    place = f"config.decision.costs={path}"
    try:
        text = path.read_text("utf-8-sig")
        rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text, class_names)
    except OSError as error:
        raise UserError(f"{place}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{place}: neither JSON nor {_CELL}: {error}") from error
    _require_classes(f"{place}: true classes", [true for true, _ in rows], class_names)
    matrix = np.zeros((len(class_names), len(class_names)))
    for true, cells in rows:
        _require_classes(f"{place}: predicted classes of the row {true}", [name for name, _ in cells], class_names)
        for predicted, cell in cells:
            cost = matrix[class_names.index(true), class_names.index(predicted)] = _number(cell)
            if not 0 <= cost < math.inf:
                raise UserError(f"{place}: the cost '{cell}' of {true} predicted as {predicted} is no number from 0 on")
    return matrix


def _require_classes(place: str, names: Sequence[str], class_names: Iterable[str]) -> None:
    """Raise UserError if the names are not each class once."""
    for name in names:
        if name not in class_names:
            raise UserError(f"{place}: {unknown('class', name, class_names)}")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{place}: {first_few(sorted(repeated))} twice")
    if missing := [name for name in class_names if name not in names]:
        raise UserError(f"{place}: {first_few(missing)} missing; name every class")


def _json_rows(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """{"true class": {"predicted class": cost}}; repeated names stay."""
    pairs = json.loads(text, object_pairs_hook=list, parse_float=str, parse_int=str, parse_constant=str)
    if not all(isinstance(row, list) and all(isinstance(cell, tuple) for cell in row) for _, row in pairs):
        raise ValueError('it must be {"true class": {"predicted class": cost, ...}, ...}')
    return [(true, [(name, str(cost)) for name, cost in row]) for true, row in pairs]


def _csv_rows(text: str, class_names: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of cells between the delimiters that give the most classes."""

    lines = [line for line in text.splitlines() if line.strip(",;\t ")]
    delimiter = max(",;\t", key=lambda mark: len({*_cells(lines[:1], mark)[0]} & {*class_names}) if lines else 0)
    header, *rows = _cells(lines, delimiter) or [[]]
    if wrong := next((row for row in rows if len(row) != len(header)), None):
        raise ValueError(f"the row '{wrong[0]}' has {len(wrong)} cells, the first line {len(header)}")
    return [(true, list(zip(header[1:], row, strict=True))) for true, *row in rows]


def _cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]


def _number(text: str) -> float:
    """The number; NaN for another text. A decimal comma is read."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan
