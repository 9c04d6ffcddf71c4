"""Runs as the report sees them: their columns, table entries and order."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rgjax.config import METHODS

# The columns of results.parquet that every run has. Class scores and settings add more.
COLUMNS: dict[str, type] = {
    **dict.fromkeys(("dataset", "study", "method", "variant"), str),
    **dict.fromkeys(("stage", "seed", "data_seed", "fold"), int),
    **dict.fromkeys(("run_id", "status", "selected_by", "aggregate"), str),
    **dict.fromkeys(("num_classes", "num_pseudo_classes"), int),
    **dict.fromkeys(("val_ba", "val_macro_ap", "val_accuracy", "test_ba", "test_ba_low", "test_ba_high"), float),
    **dict.fromkeys(("test_macro_ap", "test_macro_ap_low", "test_macro_ap_high"), float),
    **dict.fromkeys(("test_accuracy", "test_macro_auroc"), float),
    **dict.fromkeys(("train_n", "test_n"), int),
    **dict.fromkeys(("test_ba_max", "test_ba_sum", "test_macro_ap_max", "test_macro_ap_sum"), float),
    **dict.fromkeys(("test_macro_f1", "test_mcc", "test_ece", "test_brier", "test_nll"), float),
    # At the tuned thresholds
    **dict.fromkeys(("test_tuned_ba", "test_tuned_ba_low", "test_tuned_ba_high"), float),
    **dict.fromkeys(("test_tuned_ba_max", "test_tuned_ba_sum", "test_tuned_accuracy", "test_tuned_macro_f1"), float),
    **dict.fromkeys(("test_tuned_mcc", "test_tuned_ece", "test_tuned_brier", "test_tuned_nll"), float),
    **dict.fromkeys(("compile_s", "train_s", "total_s", "examples_per_s"), float),
    **dict.fromkeys(("error", "command", "workdir"), str),
}


# Of each class, on the test set
CLASS_SCORES = ("precision", "recall", "f1", "tuned_precision", "tuned_recall", "tuned_f1")


class Entry(NamedTuple):
    """A table entry: a method, and the variant that an ablation makes of it."""

    method: str
    variant: str = ""

    @property
    def key(self) -> str:
        """The spelling of sweep.json."""
        return f"{self.method} {self.variant}".strip()

    @property
    def name(self) -> str:
        """The paper's spelling, such as RG+WCE; unknown methods are shown as recorded."""
        name = METHODS[self.method].label if self.method in METHODS else self.method
        return f"{name} ({self.variant})" if self.variant else name

    @property
    def regroups(self) -> bool:
        return self.method in METHODS and METHODS[self.method].regroups

    @property
    def baseline(self) -> str:
        """The same method without regrouping: ce for rg, wce for rg_wce, itself for ce."""
        if not self.regroups:
            return self.method
        rest = {name: value for name, value in METHODS[self.method].settings.items() if not name.startswith("regroup.")}
        return next((name for name, method in METHODS.items() if dict(method.settings) == rest), self.method)

    @property
    def order(self) -> tuple:
        """The order of `METHODS`, methods that regroup last."""
        position = list(METHODS).index(self.method) if self.method in METHODS else len(METHODS)
        return self.regroups, position, self.method, self.variant


StudyPlan: TypeAlias = dict[Entry, dict[int, int]]  # entry -> stage -> number of runs that a sweep plans


@dataclass(frozen=True)
class RunRecord:
    """One workdir.

    Attributes:
        row: its row of results.parquet, with the keys of `COLUMNS`.
        config: every setting by its dotted name.
        val_ap, test_ap: average precision by class; None where it is undefined.
        counts: examples of each class in the whole data set.
        test_counts: test examples of each class.
        class_scores: `CLASS_SCORES` on the test set by class; those at tuned thresholds are absent from older runs.
        class_intervals: 95 % intervals of ap, recall and tuned_recall by class, where the run has them.
        confusion: test examples [C, C] by true and predicted class.
        overrides: the settings that the sweep set for this run.
        provenance: the content of provenance.json.
    """

    folder: Path
    row: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    val_ap: dict[str, float | None] = field(default_factory=dict)
    test_ap: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    test_counts: dict[str, int] = field(default_factory=dict)
    class_scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    class_intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> Entry:
        return Entry(self.row["method"] or "unknown", self.row["variant"])

    @property
    def status(self) -> str:
        """done, running, pending, failed or damaged"""
        return self.row["status"]

    def class_score(self, name: str, class_name: str) -> float | None:
        """The test score "ap", or one of `CLASS_SCORES`, of a class."""
        return (self.test_ap if name == "ap" else self.class_scores.get(name, {})).get(class_name)

    @property
    def stage(self) -> int:
        """1: tuning; 2: reported. Single runs, which no sweep started, are reported."""
        return self.row["stage"] or 2

    @property
    def split(self) -> tuple[int, int | None]:
        """The seed of the split or of the folds, and the fold."""
        return self.row["data_seed"], self.row["fold"]

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen settings: the overrides without seeds and folds."""
        return {name: v for name, v in self.overrides.items() if not is_seed(name) and name != "data.folds"}

    @property
    def identity(self) -> tuple:
        """Equal for repetitions of the same run."""
        seeds = (value for name, value in sorted(self.config.items()) if is_seed(name))
        return self.row["study"], self.entry, self.stage, format_settings(self.settings), *seeds

    @property
    def order(self) -> tuple:
        row, settings = self.row, json.dumps(self.settings, sort_keys=True)
        stage, *seeds = ((row[name] is None, row[name] or 0) for name in ("stage", "seed", "data_seed", "fold"))
        return row["study"], *self.entry.order, stage, settings, *seeds, row["workdir"]


def is_seed(name: str) -> bool:
    """Whether runs that differ in this field alone are repetitions: a seed or a fold."""
    return name.rpartition(".")[2] == "seed" or name == "data.fold"


def format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
