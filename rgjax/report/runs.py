"""What a run is to a report: its row of results.parquet, its label in the tables, its place among the others."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

BASELINES = ("ce", "wce", "focal", "ldam", "la", "ros", "rus", "rusc", "dsmt")
_NAMES = {"focal": "Focal"}  # the others are their own capitals

# The columns of results.parquet that every run has. Those of the classes and of the settings come on top.
COLUMNS: dict[str, type] = {
    **dict.fromkeys(("dataset", "study", "method", "variant"), str),
    **dict.fromkeys(("stage", "seed", "data_seed"), int),
    **dict.fromkeys(("run_id", "status", "selected_by", "aggregate"), str),
    **dict.fromkeys(("num_classes", "num_pseudo_classes"), int),
    **dict.fromkeys(("val_ba", "val_macro_ap", "val_accuracy", "test_ba", "test_ba_low", "test_ba_high"), float),
    **dict.fromkeys(("test_macro_ap", "test_macro_ap_low", "test_macro_ap_high"), float),
    **dict.fromkeys(("test_accuracy", "test_macro_auroc"), float),
    "test_n": int,
    **dict.fromkeys(("test_ba_max", "test_ba_sum", "test_macro_ap_max", "test_macro_ap_sum"), float),
    **dict.fromkeys(("compile_s", "train_s", "total_s", "examples_per_s"), float),
    **dict.fromkeys(("error", "command", "workdir"), str),
}


class Label(NamedTuple):
    """What a row of a table stands for: a method, and what an ablation fixes in it."""

    method: str
    variant: str = ""

    @property
    def key(self) -> str:
        """As sweep.json has it."""
        return f"{self.method} {self.variant}".strip()

    @property
    def name(self) -> str:
        """As the paper has it: RG+WCE."""
        name = "+".join(_NAMES.get(part, part.upper()) for part in self.method.split("_"))
        return f"{name} ({self.variant})" if self.variant else name

    @property
    def regroups(self) -> bool:
        return self.method.split("_")[0] == "rg"

    @property
    def partner(self) -> str:
        """The method without regrouping: ce of rg, wce of rg_wce."""
        return (self.method.partition("_")[2] or "ce") if self.regroups else self.method

    @property
    def order(self) -> tuple:
        """CE first, then the baselines, RG at the end."""
        known = BASELINES.index(self.partner) if self.partner in BASELINES else len(BASELINES)
        return self.regroups, known, self.method, self.variant


Plan: TypeAlias = dict[Label, dict[int, int]]  # label -> stage -> how many runs a sweep has of it


@dataclass(frozen=True)
class Run:
    """One workdir. `row` has the keys of COLUMNS, `config` every setting by its dotted name."""

    folder: Path
    row: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    val_ap: dict[str, float | None] = field(default_factory=dict)
    test_ap: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # rows of each class in the whole data set
    confusion: list[list[int]] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> Label:
        return Label(self.row["method"] or "unknown", self.row["variant"])

    @property
    def status(self) -> str:
        """done, running, pending, failed or damaged"""
        return self.row["status"]

    @property
    def stage(self) -> int:
        """1: tuning; 2: reported, as lone runs are."""
        return self.row["stage"] or 2

    @property
    def seeds(self) -> tuple[int, int]:
        return self.row["seed"], self.row["data_seed"]

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen: the overrides, but for the seeds."""
        return {name: value for name, value in self.overrides.items() if not is_seed(name)}

    @property
    def identity(self) -> tuple:
        """Equal for runs that are repetitions of each other."""
        seeds = (value for name, value in sorted(self.config.items()) if is_seed(name))
        return self.row["study"], self.label, self.stage, shown(self.settings), *seeds

    @property
    def order(self) -> tuple:
        row, settings = self.row, json.dumps(self.settings, sort_keys=True)
        stage, *seeds = ((row[name] is None, row[name] or 0) for name in ("stage", "seed", "data_seed"))
        return row["study"], *self.label.order, stage, settings, *seeds, row["workdir"]


def is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"


def shown(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
