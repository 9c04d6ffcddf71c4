"""Finished runs for tests: of digits and of sentences, with the smallest of networks."""

import jax
import numpy as np

from rgjax import artifacts, experiment
from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.losses import loss_of
from rgjax.models.factory import make_model
from rgjax.storage import manifest
from rgjax.storage.files import write_json
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


def config_of(method, **changes):
    config = method_config(method, {})
    with config.unlocked():
        config.update_from_flattened_dict(DIGITS | changes)
    return config


def text_in(folder):
    """Settings of a run of sentences of up to 9 words, its data and weights in the folder."""
    bert = str(write_tiny_bert(folder / "tiny-bert"))
    return {
        "data.name": "phrasebank", "data.split": "grouped", "data.positive": "", "data.max_length": 20,
        "data.manual_dir": str(write_phrasebank(folder / "phrasebank")), "model.name": "bert",
        "model.checkpoint": bert, "encoder.name": "bert", "encoder.checkpoint": bert, "train.optimizer": "adamw",
        "train.lr": 0.01, "train.batch_size": 16, "train.steps": 1, "regroup.threshold": 20,
    }  # fmt: skip


def finish(workdir, method, **changes):
    """A finished run of the digits, or of what the changes name."""
    config = config_of(method, **changes)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        experiment.run(config, workdir)
    return workdir


def finish_untrained(workdir, method="ce", **changes):
    """What a run leaves that its training has not changed; its result is blank. It takes a second."""
    trial = Trial(config_of(method, **changes), workdir)
    task = experiment.prepare(trial.config)
    artifacts.write_start(task, trial)
    model = make_model(
        trial.config.model,
        task.regrouping.num_pseudo_classes,
        head=loss_of(trial.config.loss).head,
        seed=trial.config.seed,
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
