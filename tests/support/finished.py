"""Finished runs for tests: of digits and of sentences, with the smallest of networks.

`digits_run` and `text_run` are made once for all processes of a test session, in the shared cache: read them, or change
a copy. `finish` and `finish_untrained` make a run of their own.
"""

import json
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock

from rgjax import artifacts, experiment
from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.losses import loss_of
from rgjax.models.factory import make_model
from rgjax.storage import manifest
from rgjax.storage.files import cache_dir, digest, write_json
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.program import init_state
from rgjax.training.trainer import Trial
from tests.support.downloads import write_phrasebank, write_tiny_bert

DIGITS = {
    "data.positive": "8",
    "data.image_size": 16,
    "model.name": "resnet10",
    "model.width": 8,
    "encoder.name": "projection",
    "regroup.clustering": "random",
    "regroup.rule": "target",
    "regroup.threshold": 300,
    "train.steps": 2,
    "train.batch_size": 64,
    "train.lr": 0.05,
}


def digits_run(method="ce", *, trained=True, **changes) -> Path:
    """The workdir of a finished run of the digits, shared by all tests."""
    return _shared_run(method, changes, trained)


def text_run(method="ce", *, trained=True, **changes) -> Path:
    """The workdir of a finished run of sentences, shared by all tests, beside the `text_sources` that it read."""
    return _shared_run(method, text_in(text_sources()) | changes, trained)


def text_sources() -> Path:
    """A folder with the data and the weights of sentences, shared by all tests."""
    folder = cache_dir() / "tests" / "text"
    return _once(folder, lambda: text_in(folder))


def _shared_run(method, changes, trained) -> Path:
    key = digest(method, json.dumps(changes, sort_keys=True), trained)
    workdir = cache_dir() / "tests" / "runs" / key
    return _once(workdir, lambda: (finish if trained else finish_untrained)(workdir, method, **changes))


def _once(folder, make) -> Path:
    """The folder, made by the first process that asks for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder.with_suffix(".done")
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            make()
            done.touch()
    return folder


def config_of(method, **changes):
    config = method_config(method, {})
    with config.unlocked():
        config.update_from_flattened_dict(DIGITS | changes)
    return config


def text_in(folder):
    """Settings of a run of sentences of up to 9 words; its data and weights are written to the folder if missing."""
    folder.mkdir(exist_ok=True, parents=True)
    bert, download = folder / "tiny-bert", folder / "phrasebank"
    if not download.exists():
        write_tiny_bert(bert)
        write_phrasebank(download)
    return {
        "data.name": "phrasebank", "data.split": "grouped", "data.positive": "", "data.max_length": 20,
        "data.manual_dir": str(download), "model.name": "bert",
        "model.checkpoint": str(bert), "encoder.name": "bert", "encoder.checkpoint": str(bert),
        "train.optimizer": "adamw",
        "train.lr": 0.01, "train.batch_size": 16, "train.steps": 1, "regroup.threshold": 20,
    }  # fmt: skip


def finish(workdir, method, **changes):
    """A finished run of the digits, or of what the changes name."""
    config = config_of(method, **changes)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        experiment.run(config, workdir)
    return workdir


def finish_untrained(workdir, method="ce", **changes):
    """A run with the network before training and an empty result; it takes a second."""
    trial = Trial(config_of(method, **changes), workdir)
    task = experiment.prepare(trial.config)
    artifacts.write_start(task, trial)
    model = make_model(
        trial.config.model,
        task.regrouping.num_pseudo_classes,
        head=loss_of(trial.config.loss).head,
        seed=trial.config.seed,
        image_size=task.image_size,
    )
    _, state = init_state(model, trial.config.train.optimizer)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(state.replace(step=state.step + 1), 0.0)
    checkpoints.close()
    write_json(workdir / "result.json", {})
    manifest.write(workdir, (*artifacts.START_FILES, "result.json"))
    return workdir


def predictions(workdir):
    with np.load(workdir / "predictions.npz") as file:
        return dict(file)


def digits():
    """The data set of the runs of digits, before its split."""
    return load_data(config_of("ce").data)
