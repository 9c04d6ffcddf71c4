"""Trackers hold what metrics.jsonl holds, also after an interruption, and none of them can end a run."""

import json
import struct
import subprocess
import sys
import time

import pytest

from rgjax import experiment
from rgjax.config import FIELDS, identity, method_config, validate
from rgjax.errors import UserError
from rgjax.training.trackers import TRACKERS, Trackers, WandB, require_trackers
from tests.support.events import close_to, recorded, shown

ROWS = [{"step": step, "epoch": step / 4, "train_loss": 1 / step} for step in (4, 8, 12, 16)]


def log(names, workdir, rows, step=0):
    trackers = Trackers(names, workdir, step, identity(method_config("ce", {})))
    for row in rows:
        trackers.log(row)
    trackers.close()


def test_a_resume_replaces_the_rows_that_it_repeats(tmp_path):
    log("tensorboard", tmp_path, ROWS[:3])
    again = [row | {"train_loss": 2.0} for row in ROWS[1:]]
    log("tensorboard", tmp_path, again, step=4)
    assert recorded(tmp_path) == [ROWS[0], *again]
    assert shown(tmp_path) == close_to([ROWS[0], *again])


def test_half_a_line_is_dropped(tmp_path):
    log("", tmp_path, ROWS[:2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": }\n{"step": 9, "epo')
    log("", tmp_path, ROWS[2:], step=8)
    assert recorded(tmp_path) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("moment", ["__init__", "log", "close"])
def test_a_tracker_that_fails_costs_one_line(moment, tmp_path, monkeypatch, capsys):
    class Broken:
        def __init__(self, *args): ...

        def log(self, row): ...

        def close(self): ...

    def fail(*args):
        raise OSError("the server\nis gone")

    monkeypatch.setattr(Broken, moment, fail)
    monkeypatch.setitem(TRACKERS, "broken", Broken)
    log("broken,tensorboard", tmp_path, ROWS)
    assert recorded(tmp_path) == ROWS
    assert shown(tmp_path) == close_to(ROWS)
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.trackers=broken: failed (OSError: the server is gone); training continues without it" in line


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("tensorbord", "unknown value of config.trackers 'tensorbord' (did you mean 'tensorboard'?)"),
        ("wandb,mlflow", "unknown value of config.trackers 'mlflow'; valid: tensorboard, wandb"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused(names, says):
    with pytest.raises(UserError) as error:
        validate(method_config("ce", {"trackers": names}))
    assert says in str(error.value)


@pytest.mark.parametrize("names", ["", "tensorboard", "wandb, tensorboard"])
def test_trackers_are_no_part_of_the_identity(names):
    config = method_config("ce", {"trackers": names})
    validate(config)
    assert identity(config) == identity(method_config("ce", {}))
    assert "trackers" in FIELDS


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    require_trackers("tensorboard")
    monkeypatch.setattr(WandB, "package", "wandb_that_is_absent")
    (tmp_path / "wandb_that_is_absent").mkdir()
    monkeypatch.syspath_prepend(tmp_path)  # a folder of the name is no package
    monkeypatch.setattr(experiment, "load_data", None)
    with pytest.raises(UserError, match=r"config.trackers=wandb: needs the package .*uv sync --extra wandb"):
        experiment.run(method_config("ce", {"trackers": "wandb"}), tmp_path)


def test_no_tracker_is_imported_before_it_is_used():
    any_imported = "any(name in sys.modules for name in ('tensorboardX', 'wandb'))"
    code = f"import sys, rgjax.training.trackers; sys.exit({any_imported})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def wandb_history(path):
    """The rows of an offline run's file: records of protobuf in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):
            record, whole = Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "history":
                values = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                yield {"step": values["_step"]} | {k: v for k, v in values.items() if not k.startswith("_")}


def test_wandb_resumes_under_its_id_without_a_network(tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb", reason="needs Weights & Biases: uv run --with wandb pytest")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    log("wandb", tmp_path, ROWS[:3])
    time.sleep(1)  # W&B names its folders by the second
    log("wandb", tmp_path, ROWS[1:], step=4)
    wandb.teardown()  # as at the end of a process: what its service holds is written
    assert recorded(tmp_path) == ROWS
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    own = json.loads((tmp_path / "wandb" / "run.json").read_text())["id"]
    assert {folder.name.rpartition("-")[2] for folder in folders} == {own}
    files = [folder / f"run-{own}.wandb" for folder in folders]
    assert [row for path in files for row in wandb_history(path)] == ROWS
    assert capfd.readouterr().err == ""
