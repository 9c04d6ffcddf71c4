"""Finished and unfinished sweeps, made from random predictions instead of training."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rgjax import metrics
from rgjax.config import method_config
from rgjax.decision import FILE, fit_decision

ODD = "a_b & <b>c</b> $x$"


@dataclass
class Sweep:
    """A folder to which runs are added."""

    folder: Path
    study: str = "digits"
    data: str = "digits"
    classes: tuple[str, ...] = ("rest", "8")
    groups: tuple[int, ...] = (4, 1)
    sizes: tuple[int, ...] = (80, 20)
    decides: bool = True  # runs of older versions do not

    def run(self, name, method, *, variant="", stage=2, seed=0, skill=1.5, overrides=None, state="done", **config):
        """Write a run below the folder; `skill` is how far apart its logits set the classes."""
        overrides = (overrides or {}) | {"seed": seed, "data.seed": seed}
        settings = method_config(method, {"data.name": self.data, **config})
        settings.update_from_flattened_dict(overrides)
        folder = self.folder / self.study / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(settings.to_json())
        record = {
            "run_id": f"{abs(hash(name)) % 16**8:08x}",
            "study": self.study,
            "variant": variant,
            "stage": stage,
            "overrides": overrides,
            "selected_by": "validation BA on seed 1000",
            "command": f"python -m rgjax.main --config=configs/{self.study}.py:{method} --config.seed={seed}",
        }
        if stage:
            (folder / "run.json").write_text(json.dumps(record))
        if state == "failed":
            (folder / "failure.json").write_text(json.dumps({"error": "the loss is <b>not</b> finite", "attempts": 2}))
        if state in ("done", "running"):
            origin = {
                "git": {"commit": "c0ffee", "dirty": True},
                "python": "3.11.7",
                "packages": {"jax": "0.10.2"},
                "devices": ["cpu"],
                "fingerprints": {"data": "1f48"},
            }
            (folder / "provenance.json").write_text(json.dumps(origin))
        if state == "done":
            self.finish(folder, settings, seed, skill)
        return folder

    def finish(self, folder, settings, seed, skill):
        split = settings.regroup.clustering != "none"
        parent = np.repeat(np.arange(len(self.classes)), self.groups if split else 1).astype(np.int32)
        rng = np.random.default_rng([seed, *map(ord, folder.name)])
        labels = np.repeat(np.arange(len(self.classes)), self.sizes)
        logits = {}
        for split_name in ("val", "test"):
            logits[split_name] = rng.normal(size=(len(labels), len(parent))).astype(np.float32)
            logits[split_name] += skill * (parent == labels[:, None])
        np.savez(
            folder / "predictions.npz",
            parent=parent,
            **{f"{name}_logits": values for name, values in logits.items()},
            **{f"{name}_labels": labels for name in logits},
        )
        scores = {
            how: {
                name: metrics.evaluate(class_logits(values, parent, how), labels, self.classes)
                for name, values in logits.items()
            }
            for how in ("max", "sum")
        }
        chosen = scores[settings.regroup.aggregate]
        result = {
            "dataset": f"{self.study}_set",
            "method": settings.method,
            "seed": seed,
            "num_classes": len(self.classes),
            "num_pseudo_classes": len(parent),
            "aggregate": settings.regroup.aggregate,
            "train_counts": dict(zip(self.classes, (3 * size for size in self.sizes), strict=True)),
            **chosen,
            "test_by_aggregation": {how: splits["test"] for how, splits in scores.items()},
            **self.decide(folder, settings, parent, logits, labels),
            "timing": {"trials": 1, "compile_s": 1.0, "train_s": 2.0, "examples_per_s": 900.5, "total_s": 4.25},
        }
        (folder / "result.json").write_text(json.dumps(result))
        steps = [
            {
                "step": s,
                "epoch": s / 10,
                "train_loss": 2.0 / s,
                "train_s": 0.1,
                "val_ba": 1 - 1 / s,
                "val_macro_ap": 0.5,
            }
            for s in (10, 20, 30)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        if split:
            (folder / "groups").mkdir()
            Image.fromarray(rng.integers(0, 256, (120, 300, 3), np.uint8)).save(folder / "groups" / "0-rest.png")
            (folder / "groups" / "1-text.md").write_text("# a\n\n| | |\n|---|---|\n| central | profit \\<b\\>rose |\n")

    def decide(self, folder, settings, parent, logits, labels):
        """Write decision.json; return what result.json has of it."""
        if not self.decides:
            return {}
        by_class = {how: {name: class_logits(z, parent, how) for name, z in logits.items()} for how in ("max", "sum")}
        decisions = {how: fit_decision(z["val"], labels, self.classes) for how, z in by_class.items()}
        by_aggregation = {how: decision.as_json() for how, decision in decisions.items()}
        content = {"split": "val", "n": len(labels), "rule": "balanced accuracy", "by_aggregation": by_aggregation}
        (folder / FILE).write_text(json.dumps(content))
        tuned = {
            how: metrics.label_scores(labels, decision.predict(by_class[how]["test"]), self.classes)
            | metrics.calibration_scores(decision.calibrated(by_class[how]["test"]), labels)
            for how, decision in decisions.items()
        }
        return {"test_tuned": tuned[settings.regroup.aggregate], "test_tuned_by_aggregation": tuned}


def class_logits(logits, parent, how):
    """The reference of the aggregation."""
    merge = np.max if how == "max" else np.logaddexp.reduce
    return np.stack([merge(logits[:, parent == c], axis=1) for c in range(parent.max() + 1)], axis=1)


def write_sweep(folder: Path) -> Path:
    """Two finished studies: a binary one with grids and ablations, and one of three classes with an odd name."""
    digits = Sweep(folder)
    for seed in (0, 1, 2):
        digits.run(f"ce-{seed}", "ce", seed=seed)
        digits.run(f"wce-{seed}", "wce", seed=seed, skill=1.6)
        digits.run(f"focal-{seed}", "focal", seed=seed, overrides={"loss.gamma": 1.5})
        digits.run(f"rg-{seed}", "rg", seed=seed, skill=2.5)
        digits.run(f"rg_wce-{seed}", "rg_wce", seed=seed, skill=2.8)
        random = {"regroup.clustering": "random"}
        digits.run(f"random-{seed}", "rg", seed=seed, variant="random groups", overrides=random)
        untrained = {"encoder.name": "projection"}
        digits.run(f"rp-{seed}", "rg", seed=seed, variant="untrained encoder", overrides=untrained, skill=2)
    for gamma in (0.5, 1.5, 3.0):
        digits.run(f"focal-g{gamma}", "focal", stage=1, seed=1000, overrides={"loss.gamma": gamma}, skill=gamma)
    for max_m in (0.5, 1.0):
        for s in (10.0, 30.0):
            name, overrides = f"ldam-{max_m}-{s}", {"loss.max_m": max_m, "loss.s": s}
            digits.run(name, "ldam", stage=1, seed=1000, overrides=overrides, skill=max_m + s / 30)
    digits.run("ldam-0", "ldam", seed=0, overrides={"loss.max_m": 1.0, "loss.s": 30.0})
    triple = Sweep(folder, "triple", "phrasebank", ("neutral", ODD, "negative"), (3, 2, 1), (60, 30, 10))
    for seed in (0, 1):
        triple.run(f"ce-{seed}", "ce", seed=seed)
        triple.run(f"rg-{seed}", "rg", seed=seed, skill=2)

    def budget(reported, tuning=0, variant=""):
        return {"variant": variant, "tuning": tuning, "reported": reported}

    methods = {name: budget(3) for name in ("ce", "wce", "rg", "rg_wce")}
    methods |= {f"rg {name}": budget(3, variant=name) for name in ("random groups", "untrained encoder")}
    methods |= {"focal": budget(3, 3), "ldam": budget(1, 4)}
    plan = {
        "studies": {
            "digits": {"config": "configs/digits.py", "methods": methods},
            "triple": {"config": "configs/triple.py", "methods": {"ce": budget(2), "rg": budget(2)}},
        },
        "command": "python -m rgjax.sweep --config=configs/digits.py --workdir=runs/all",
        "select": "ba",
    }
    (folder / "sweep.json").write_text(json.dumps(plan))
    return folder
