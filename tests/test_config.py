import importlib
import importlib.util
from pathlib import Path

import pytest

from rgjax.command import describe
from rgjax.config import (
    AUTO,
    ENCODERS,
    FIELDS,
    FROZEN,
    HEAD_TRAINING,
    IMAGE_FINETUNING,
    METHODS,
    identity,
    method_config,
    prepare_training,
    validate,
    value_of,
)
from rgjax.data.phrasebank import AGREEMENTS
from rgjax.errors import UserError
from rgjax.losses import LOSSES
from rgjax.models.efficientnet import VARIANTS
from rgjax.models.layers import HEADS
from rgjax.models.pooling import POOLINGS
from rgjax.models.resnet import STAGES, STEMS
from rgjax.regroup import AGGREGATIONS, CLUSTERINGS, RULES
from rgjax.sampling import SAMPLERS
from rgjax.training.optimizer import OPTIMIZERS
from rgjax.training.setup import duration
from rgjax.training.trackers import TRACKERS

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("method", METHODS)
def test_every_config_is_valid_with_every_method(path, method):
    config = load(path).get_config(method)
    validate(config)
    assert config.method == method
    assert config.is_locked


REGISTRIES = {
    "trackers": TRACKERS,
    "data.agreement": AGREEMENTS,
    "encoder.pooling": ("auto", *POOLINGS),
    "regroup.clustering": CLUSTERINGS,
    "regroup.rule": RULES,
    "regroup.aggregate": AGGREGATIONS,
    "sampler": SAMPLERS,
    "loss.name": LOSSES,
    "model.name": (*STAGES, *VARIANTS, "bert", "pretrained", *FROZEN),
    "model.stem": STEMS,
    "model.head": ("auto", *HEADS),
    "train.optimizer": OPTIMIZERS,
}


@pytest.mark.parametrize("field", REGISTRIES)
def test_choices_are_those_of_the_registries(field):
    assert set(FIELDS[field].choices) == set(REGISTRIES[field])


def test_data_sets_are_modules_of_the_data_room():
    for name in FIELDS["data.name"].choices:
        module = importlib.import_module(f"rgjax.data.{name}")
        assert callable(module.load) and callable(module.spec)


def test_every_encoder_has_a_kind_of_input():
    names = {name for names in ENCODERS.values() for name in names}
    assert set(FIELDS["encoder.name"].choices) == {"auto", "checkpoint", *names}


def test_the_default_method_is_rg():
    assert all(load(path).get_config().method == "rg" for path in CONFIGS)


def test_methods_are_compositions():
    def parts(method):
        config = method_config(method, {})
        return config.regroup.clustering, config.sampler, config.loss.name

    assert parts("ce") == ("none", "none", "ce")
    assert parts("rusc") == ("none", "rusc", "ce")
    assert parts("dsmt") == ("none", "deepsmote", "ce")
    assert parts("rg_ldam") == ("kmeans", "none", "ldam")


def test_the_paper_defaults():
    config = method_config("rg", {})
    expected = {"epochs": 400, "batch_size": 256, "lr": 0.01, "optimizer": "sgd"}
    assert {name: config.train[name] for name in expected} == expected
    assert config.model.name == "resnet34"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("train.epochs", 0, "config.train.epochs=0: out of range; must be at least 1"),
        ("train.lr", float("nan"), "config.train.lr=nan: out of range"),
        ("regroup.threshold", -1, "config.regroup.threshold=-1: out of range"),
        ("encoder.name", "projektion", "did you mean 'projection'"),
        ("sampler", "smote", "valid: none, ros, rus, rusc, deepsmote"),
        ("regroup.rule", "target", "config.regroup.threshold"),
        ("seed", 2**31, "config.seed=2147483648: out of range; must be at least 0 and at most 2147483647"),
        ("train.eval_epochs", float("inf"), "config.train.eval_epochs=inf: out of range"),
        ("train.lr", "0.1", "config.train.lr='0.1': must be of type float"),
        ("train.epochs", 1.5, "config.train.epochs=1.5: must be of type int"),
        ("train.epochs", True, "config.train.epochs=True: must be of type int"),
        ("sampler", ["ros"], "must be of type str"),
        ("train.lr", None, "config.train.lr=None: must be of type float"),
    ],
)
def test_bad_values_are_named(field, value, says):
    config = method_config("rg", {field: value})
    with pytest.raises(UserError, match="config") as error:
        validate(config)
    assert says in str(error.value)


def test_fold_must_be_one_of_the_folds():
    for fields, says in (
        ({"data.fold": 1}, "config.data.fold=1: no folds are drawn; set config.data.folds too"),
        ({"data.fold": 5, "data.folds": 5}, "config.data.fold=5: of 5 folds; choose one from 0 to 4"),
        ({"data.folds": 1}, "config.data.folds=1: out of range; must be at least 2"),
    ):
        with pytest.raises(UserError) as error:
            validate(method_config("ce", fields))
        assert says in str(error.value)
    validate(method_config("ce", {"data.fold": 4, "data.folds": 5}))


def test_an_unknown_method_or_field_suggests_the_nearest():
    with pytest.raises(UserError, match=r"unknown method 'rg_wcee' \(did you mean 'rg_wce'\?\); valid: ce, wce"):
        method_config("rg_wcee", {})
    with pytest.raises(UserError, match=r"did you mean 'train.epochs'"):
        method_config("rg", {"train.epoch": 3})


def test_durations():
    def steps(whole_epochs=False, **fields):
        config = method_config("rg", {f"train.eval_{unit}": value for unit, value in fields.items()})
        return duration(config, "train.eval", total_steps=1000, steps_per_epoch=30, whole_epochs=whole_epochs)

    assert steps(steps=7, epochs=3.0, percent=50.0) == 7
    assert steps(epochs=2.5) == 75
    assert steps(epochs=0.001) == 1
    assert steps(percent=50.0) == 500
    assert steps(percent=50.0, whole_epochs=True) == 510
    assert steps(percent=0.01) == 1
    assert steps(percent=0.1, whole_epochs=True) == 30
    assert duration(method_config("rg", {}), "train.warmup", total_steps=10, steps_per_epoch=5) is None


def test_where_the_data_lie_makes_no_other_run():
    here, there = (method_config("rg", {"data.manual_dir": folder}) for folder in ("/here", "/there"))
    assert identity(here) == identity(there)
    assert identity(here) != identity(method_config("rg", {"data.seed": 1}))
    mapped = identity(method_config("rg", {"data.columns": "text:sentence"}))
    assert mapped == identity(here) | {"data.columns": "text:sentence"}  # runs without a mapping keep their names
    assert identity({"seed": 3})["train.lr"] is None


def test_of_data_of_ones_own_the_place_counts(tmp_path, monkeypatch):
    def of(place, name="images"):
        return identity(method_config("rg", {"data.name": name, "data.manual_dir": place}))

    assert of("/a/flowers") != of("/b/flowers")
    monkeypatch.chdir(tmp_path)
    assert of("flowers/") == of(str(tmp_path / "flowers")) == of("./x/../flowers")
    assert of("", "text")["data.name"] == "text"


@pytest.mark.parametrize("name", ["images", "text", "images_finetune", "text_finetune", "images_scratch"])
def test_custom_data_have_a_least_size_of_groups_and_the_papers_have_none(name):
    assert load(Path(f"configs/{name}.py")).get_config().regroup.min_size == AUTO
    assert method_config("rg", {}).regroup.min_size == 0


def test_help_lists_every_field_and_method():
    text = describe()
    assert all(name in text for name in (*FIELDS, *METHODS))
    assert value_of(method_config("ce", {}), "loss.s") == 30.0


def overridden(file, **fields):
    """The config of a file and the command line, as `read_config` makes it."""
    config = load(file).get_config("ce")
    network = config.model.name
    config.update_from_flattened_dict(fields)
    prepare_training(config, network, fields)
    validate(config)
    return config


def test_a_head_in_the_place_of_another_network_is_trained_as_a_head():
    scratch = Path(__file__).parents[1] / "configs" / "ham10000.py"
    head = overridden(scratch, **{"model.name": "linear", "train.lr": 0.5, "train.steps": 3})
    assert head.train.optimizer == HEAD_TRAINING["train.optimizer"]
    assert head.train.epochs == HEAD_TRAINING["train.epochs"]
    assert (head.train.lr, head.train.steps) == (0.5, 3)  # the command line's

    bert = overridden(Path(__file__).parents[1] / "configs" / "text_finetune.py", **{"model.name": "mlp"})
    assert (bert.train.warmup_percent, bert.train.clip_norm) == (None, 0.0)


def test_a_pretrained_network_in_the_place_of_another_is_fine_tuned():
    configs = Path(__file__).parents[1] / "configs"
    images = overridden(configs / "ham10000.py", **{"model.name": "pretrained", "train.epochs": 5})
    assert (images.train.lr, images.train.layer_decay) == (IMAGE_FINETUNING["train.lr"], 0.75)
    assert (images.train.epochs, images.train.decay_all) == (5, False)
    bert = load(configs / "phrasebank.py").get_config().train
    text = overridden(configs / "phrasebank.py", **{"model.name": "pretrained"})
    assert text.train.to_dict() == bert.to_dict()


def test_other_networks_and_the_file_of_a_head_keep_the_settings_of_the_file():
    config = method_config("ce", {"model.name": "mlp", "train.lr": 0.3})
    assert prepare_training(config, "linear", {"model.name": "mlp"}) == {}
    assert prepare_training(method_config("ce", {}), "resnet18", {"model.name": "resnet34"}) == {}
    assert config.train.lr == 0.3
