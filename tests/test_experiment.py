"""Whole experiments with a tiny network: every method, identities, files, damage and interruptions."""

import contextlib
import importlib
import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from rgjax import console, experiment, metrics
from rgjax.config import FIELDS, METHODS, method_config
from rgjax.data import load_data
from rgjax.edges.signals import Preempted
from rgjax.errors import UserError
from rgjax.models.resnet import STAGES
from rgjax.predict import __main__
from rgjax.regroup import AGGREGATIONS, FEATURE_CLUSTERINGS
from rgjax.report.pictures import draw_groups
from rgjax.report.summary import format_result
from rgjax.storage import manifest
from rgjax.storage.files import cache_dir, newest_step
from rgjax.training import resampling, trainer
from tests.support.downloads import write_clip
from tests.support.events import close_to, recorded, shown

SMALL = {
    "data.positive": "8",
    "data.image_size": 16,
    "data.flip": False,
    "encoder.name": "projection",
    "model.name": "tiny",
    "model.width": 8,
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.lr": 0.05,
    "regroup.n_init": 2,
    "deepsmote.epochs": 1,
    "deepsmote.width": 4,
}


@pytest.fixture(autouse=True, scope="module")
def tiny_network():
    """A ResNet of a single block, which compiles fast, as `config.model.name="tiny"`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, "tiny", (1,))
        field = FIELDS["model.name"]
        patch.setitem(FIELDS, "model.name", replace(field, choices=(*STAGES, "bert")))
        yield


def run(method, workdir, **changes):
    config = method_config(method, SMALL)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with promotion(config):
        return experiment.run(config, workdir)


def promotion(config):
    """Allow dtype promotion for optax's Adam, which trains the autoencoder."""
    return jax.numpy_dtype_promotion("standard") if config.sampler == "deepsmote" else contextlib.nullcontext()


def predictions(workdir):
    with np.load(workdir / "predictions.npz") as file:
        return dict(file)


# The quick ones by default; the others in .ci/run.
_QUICK = ("rus",)


@pytest.mark.parametrize(
    "method", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.long) for name in METHODS]
)
def test_every_method_gives_a_result(method, tmp_path):
    result = run(method, tmp_path, **{"train.steps": 2})
    assert result["method"] == method
    assert result["num_classes"] == 2
    assert (result["num_pseudo_classes"] > 2) == method.startswith("rg")
    assert set(result["test"]["ap"]) == {"rest", "8"}
    assert set(result["test_by_aggregation"]) == {"max", "sum"}
    assert 0 < result["test"]["ba"] <= 1


def test_the_result_follows_from_the_files_of_a_run(tmp_path):
    result = run("rg", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"metrics.jsonl", "provenance.json", "regrouping.npz", "predictions.npz", "result.json",
                     "split.npz", "checkpoints"}  # fmt: skip
    saved = predictions(tmp_path)
    logits, labels, parent = saved["test_logits"], saved["test_labels"], saved["parent"]
    assert logits.shape == (result["test"]["n"], result["num_pseudo_classes"])
    by_class = np.stack([logits[:, parent == c].max(axis=1) for c in range(2)], axis=1).astype(float)
    margin = by_class[:, 1] - by_class[:, 0]
    assert result["test"]["ap"]["8"] == pytest.approx(average_precision_score(labels, margin))
    assert result["test"]["ba"] == pytest.approx(balanced_accuracy_score(labels, by_class.argmax(axis=1)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1.0, 2.0]
    with np.load(tmp_path / "split.npz") as split:
        splits = [set(split[name]) for name in ("train", "val", "test")]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 1797


@pytest.mark.parametrize(("method", "times"), [("ce", 2), ("rg", 4)])
def test_each_score_is_computed_once(method, times, tmp_path, monkeypatch):
    """Validation and test under each aggregation; without pseudo-classes the aggregations are equal."""
    calls, evaluate = [], metrics.evaluate

    def counted(*args, **kwargs):
        calls.append(args)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(metrics, "evaluate", counted)
    result = run(method, tmp_path, **{"train.steps": 1})
    assert len(calls) == times
    assert tuple(result["test_by_aggregation"]) == AGGREGATIONS
    assert result["test"] == result["test_by_aggregation"]["max"]


def test_one_cluster_per_class_is_ce_bit_for_bit(tmp_path):
    run("ce", tmp_path / "ce", **{"train.steps": 3})
    run("rg", tmp_path / "rg", **{"train.steps": 3, "regroup.threshold": 5000})
    rg, ce = predictions(tmp_path / "rg"), predictions(tmp_path / "ce")
    for name in ce:
        np.testing.assert_array_equal(rg[name], ce[name])


@pytest.mark.long
@pytest.mark.parametrize(("positive", "classes", "pseudo_classes"), [("", 10, 10), ("8", 2, 9 + 1)])
def test_classes_and_random_groups(positive, classes, pseudo_classes, tmp_path):
    result = run("rg", tmp_path, **{
        "data.positive": positive, "regroup.clustering": "random", "regroup.rule": "target", "regroup.threshold": 60,
        "train.steps": 1,
    })  # fmt: skip
    assert (result["num_classes"], result["num_pseudo_classes"]) == (classes, pseudo_classes)


@pytest.mark.long
def test_groups_of_every_clustering_are_cached_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path / "cache"))
    config = method_config("rg", SMALL)
    dataset = load_data(config.data)
    cached = set()
    for clustering in FEATURE_CLUSTERINGS:
        config.regroup.clustering = clustering
        features = experiment.encode(experiment.encoder_of(config, dataset, None), dataset)[dataset.train]
        regrouping = experiment.make_regrouping(config, dataset, features)
        files = set((tmp_path / "cache" / "groups").glob("*.npz"))
        assert len(files - cached) == 1
        cached = files
        again = experiment.make_regrouping(config, dataset, features)
        np.testing.assert_array_equal(again.pseudo_labels, regrouping.pseudo_labels)
        draw_groups(tmp_path / clustering, dataset.inputs, dataset.train, regrouping, features, dataset.class_names)
        assert (tmp_path / clustering / "sizes.png").exists()
        sizes = regrouping.counts[regrouping.parent == 0]
        assert len(sizes) == 9
        assert (np.ptp(sizes) <= 1) == (clustering == "balanced")
        config.regroup.threshold += 1  # asks for the same groups
        experiment.make_regrouping(config, dataset, features)
        config.regroup.threshold -= 1
    assert set((tmp_path / "cache" / "groups").glob("*.npz")) == cached


@pytest.mark.long
@pytest.mark.parametrize(("method", "positive"), [("rg_ldam", ""), ("rusc", "mel")])
def test_seven_lesions_and_one_against_the_rest(method, positive, ham_download, tmp_path):
    result = run(method, tmp_path / "w", **{
        "data.name": "ham10000", "data.split": "grouped", "data.positive": positive, "train.batch_size": 16,
        "data.manual_dir": str(ham_download), "data.data_dir": str(tmp_path / "prepared"), "train.steps": 2,
    })  # fmt: skip
    assert result["dataset"] == ("ham10000_mel" if positive else "ham10000")
    assert result["num_classes"] == (2 if positive else 7)
    assert sum(result["test"]["counts"].values()) == result["test"]["n"]


@pytest.mark.long
def test_the_smallest_data_have_a_result(tmp_path, capsys):
    """Images of one pixel: six equal ones in a class, a class of one image, and classes absent from val and test."""
    colors = {"train": {"a": ["red"] * 6, "b": ["black", "gray", "white"], "c": ["blue"]}}
    colors |= {"val": {"a": ["red"], "b": ["gray"]}, "test": {"a": ["red"], "c": ["blue"]}}
    data = tmp_path / "data"
    for split, classes in colors.items():
        for name, images in classes.items():
            (data / split / name).mkdir(parents=True)
            for i, color in enumerate(images):
                Image.new("RGB", (1, 1), color).save(data / split / name / f"{i}.png")
    custom = {"data.name": "images", "data.positive": "", "data.split": "auto", "data.manual_dir": str(data)}
    result = run("rg", tmp_path / "w", **custom, **{"train.batch_size": 4, "train.steps": 3})
    assert result["train_counts"] == {"a": 6, "b": 3, "c": 1}
    assert result["num_pseudo_classes"] == 1 + 3 + 1  # equal images are one group
    assert (result["val"]["ap"]["c"], result["test"]["ap"]["b"]) == (None, None)
    assert result["test"]["counts"] == {"a": 1, "b": 0, "c": 1}
    assert "test set of 2" in format_result(result)
    assert __main__.main([f"--workdir={tmp_path / 'w'}", str(data / "test"), "--neighbors=0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(UserError, match=r"config\.train\.batch_size=11: larger than the training set"):
        run("rg", tmp_path / "v", **custom, **{"train.batch_size": 11})


@pytest.fixture
def text_settings(tiny_bert, phrasebank_download):
    return {
        "data.name": "phrasebank", "data.split": "grouped", "data.positive": "", "data.max_length": 12,
        "data.manual_dir": str(phrasebank_download), "encoder.name": "bert", "encoder.checkpoint": str(tiny_bert),
        "model.name": "bert", "model.checkpoint": str(tiny_bert), "train.optimizer": "adamw", "train.lr": 0.01,
        "train.batch_size": 16, "train.epochs": 25, "train.warmup_percent": 10.0,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("method", ["ldam", "rg_wce"])
def test_sentences_are_learned(method, text_settings, tmp_path):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        result = run(method, tmp_path / "w", **text_settings)
    assert result["num_classes"] == 3
    assert result["num_pseudo_classes"] == (7 if method == "rg_wce" else 3)
    assert result["test"]["ba"] > 0.6  # the second word determines the label; chance is 1/3
    assert (tmp_path / "w" / "groups" / "0-neutral.md").exists() == (method == "rg_wce")


@pytest.mark.long
def test_a_finished_run_is_an_encoder(text_settings, tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        run("ce", tmp_path / "first", **text_settings)
        again = {"encoder.name": "checkpoint", "encoder.checkpoint": str(tmp_path / "first"), "train.steps": 1}
        result = run("rg", tmp_path / "second", **text_settings | again)
    assert result["num_pseudo_classes"] == 7
    run("ce", tmp_path / "digits", **{"train.steps": 1})
    again["encoder.checkpoint"] = str(tmp_path / "digits")
    assert run("rg", tmp_path / "images", **again)["num_pseudo_classes"] > 2
    with pytest.raises(UserError, match="it was trained on images, not sentences"):
        run("rg", tmp_path / "third", **text_settings | again)
    shutil.rmtree(tmp_path / "digits" / "checkpoints")
    with pytest.raises(UserError, match=r"result\.json or checkpoints/ is missing"):
        run("rg", tmp_path / "images-again", **again)
    again["encoder.checkpoint"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a finished run"):
        run("rg", tmp_path / "fourth", **text_settings | again)


@pytest.mark.long
def test_real_images_through_a_clip_of_full_size(shared_data, tmp_path, monkeypatch):
    """Random weights in the shape of ViT-B/32 on 200 real images: features, groups, pictures, and a cache hit."""
    few = tmp_path / "ham"
    few.mkdir()
    with open(shared_data / "ham10000" / "HAM10000_metadata.csv") as file:
        header, *lines = file.read().splitlines()
    by_class = {}
    for line in lines:
        by_class.setdefault(line.split(",")[2], []).append(line)
    kept = [line for name, rows in sorted(by_class.items()) for line in rows[: 110 if name == "nv" else 15]]
    (few / "HAM10000_metadata.csv").write_text("\n".join([header, *kept]))
    images = {path.stem: path for path in (shared_data / "ham10000").glob("*/*.jpg")}
    for line in kept:
        image = images[line.split(",")[1]]
        (few / image.name).symlink_to(image)
    write_clip(tmp_path / "clip")
    changes = {
        "data.name": "ham10000", "data.positive": "", "data.image_size": 64, "data.manual_dir": str(few),
        "data.data_dir": str(tmp_path / "prepared"), "data.split": "grouped", "train.batch_size": 16, "train.steps": 2,
        "encoder.name": "auto", "encoder.checkpoint": str(tmp_path / "clip"),
    }  # fmt: skip
    result = run("rg", tmp_path / "first", **changes)
    assert sum(result["train_counts"].values()) + result["val"]["n"] + result["test"]["n"] == 200
    assert result["num_pseudo_classes"] > 7
    with Image.open(tmp_path / "first" / "groups" / "0-nv.png") as sheet:
        assert sheet.height > 300
    monkeypatch.setattr("rgjax.encoders.pretrained.Options", None)  # the features are read from the cache
    run("rg", tmp_path / "second", **changes)
    with np.load(tmp_path / "first" / "regrouping.npz") as a, np.load(tmp_path / "second" / "regrouping.npz") as b:
        np.testing.assert_array_equal(a["pseudo_labels"], b["pseudo_labels"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "resnet10"}, "config.model.name=resnet10: cannot read sentences; use"),
        ({"encoder.name": "clip"}, "config.encoder.name=clip: "),
        ({"sampler": "deepsmote"}, "config.sampler=deepsmote: "),
        ({"data.max_length": 21}, "config.data.max_length=21"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_exclude_each_other_are_refused(changes, message, text_settings, tmp_path):
    with pytest.raises(UserError) as error:
        run("rg", tmp_path / "w", **text_settings | changes)
    assert message in str(error.value)


def prepared(method, **changes):
    config = method_config(method, SMALL)
    config.update_from_flattened_dict(changes)
    with promotion(config):
        return experiment.prepare(config)


@pytest.mark.long
@pytest.mark.parametrize(("clustering", "classes"), [("none", 2), ("random", 3)])
def test_synthetic_images_balance_the_training_set_only(clustering, classes):
    changes = {"regroup.clustering": clustering, "regroup.rule": "target", "regroup.threshold": 500}
    plain, task = prepared("ce", **changes), prepared("dsmt", **changes)
    assert task.regrouping.num_pseudo_classes == classes
    counts = np.bincount(task.labels[task.pool])
    assert counts.tolist() == [task.regrouping.counts.max()] * classes
    assert len(task.indices) == len(task.labels) == len(task.pool) == counts.sum()
    real = len(task.dataset.train)
    np.testing.assert_array_equal(task.indices[:real], task.dataset.train)
    np.testing.assert_array_equal(task.labels[:real], task.regrouping.pseudo_labels)
    np.testing.assert_array_equal(task.inputs[: len(task.dataset.inputs)], task.dataset.inputs)
    np.testing.assert_array_equal(task.inputs[task.indices[real:]], task.synthetic.images)
    for name in ("train", "val", "test", "labels", "inputs"):
        np.testing.assert_array_equal(getattr(task.dataset, name), getattr(plain.dataset, name))


@pytest.mark.long
def test_a_run_with_synthetic_images(tmp_path, monkeypatch):
    settings = {"data.seed": 7, "train.epochs": 1}
    dataset = prepared("ce", **settings).dataset

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    cache = cache_dir() / "deepsmote"
    before = set(cache.glob("*.npz"))
    with monkeypatch.context() as patch:
        module = importlib.import_module("rgjax.sampling.deepsmote")  # the package exports a function by this name
        patch.setattr(module, "synthesize", interrupted)  # after the training of the autoencoder
        with pytest.raises(KeyboardInterrupt):
            run("dsmt", tmp_path / "first", **settings)
    assert set(cache.glob("*.npz")) == before
    result = run("dsmt", tmp_path / "first", **settings)
    assert list(result["train_counts"].values()) == np.bincount(dataset.labels[dataset.train]).tolist()
    np.testing.assert_array_equal(predictions(tmp_path / "first")["test_ids"], dataset.ids[dataset.test])
    last = json.loads((tmp_path / "first" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == len(dataset.train) // 64  # as many as without the synthetic ones
    for picture, lines in (("0-rest.png", 2), ("1-8.png", 4)):
        with Image.open(tmp_path / "first" / "synthetic" / picture) as sheet:
            assert sheet.height == 68 * lines + 4
    monkeypatch.setattr(resampling, "deepsmote", None)  # the cache is read
    assert len(prepared("dsmt", **settings, seed=1).synthetic.images)


@pytest.mark.long
def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    result = run("ce", tmp_path)
    monkeypatch.setattr(experiment, "load_data", None)
    assert run("ce", tmp_path) == result


def without_times(result):
    return {name: value for name, value in result.items() if name != "timing"}


def test_damaged_files_of_a_finished_run_are_recomputed(tmp_path, capsys):
    result = run("rg", tmp_path, **{"train.steps": 3})
    intact = {name: (tmp_path / name).read_bytes() for name in ("predictions.npz", "split.npz", "regrouping.npz")}
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    for name, content in intact.items():
        damaged = bytearray(content)
        damaged[300] ^= 1
        (tmp_path / name).write_bytes(damaged)
    (tmp_path / "provenance.json").write_text("{")
    assert not manifest.finished(tmp_path)
    capsys.readouterr()
    assert without_times(run("rg", tmp_path, **{"train.steps": 3})) == without_times(result)
    pattern = r"(\w+\.\w+) is corrupted \(.*\); moved to \1\.damaged and recomputed"
    names = re.findall(pattern, capsys.readouterr().err)
    assert names == ["predictions.npz", "provenance.json", "regrouping.npz", "result.json", "split.npz"]
    assert {name: (tmp_path / name).read_bytes() for name in intact} == intact
    assert manifest.finished(tmp_path)


@pytest.mark.long
def test_a_damaged_manifest_is_recomputed(tmp_path, capsys):
    result = run("ce", tmp_path, **{"train.steps": 2})
    (tmp_path / "manifest.json").write_text('{"files": {"../result.json": {}}}')
    assert without_times(run("ce", tmp_path, **{"train.steps": 2})) == without_times(result)
    assert "manifest.json is corrupted" in capsys.readouterr().err


def test_sigterm_saves_a_checkpoint_and_ends_the_run(tmp_path, monkeypatch):
    changes = {"train.steps": 20, "train.steps_per_call": 2, "train.checkpoint_steps": 20}
    whole = run("ce", tmp_path / "whole", **changes)
    requested = iter([False, False, True])
    monkeypatch.setattr(console, "sigterm_requested", lambda: next(requested, True))
    with pytest.raises(Preempted):
        run("ce", tmp_path / "cut", **changes)
    monkeypatch.undo()
    assert newest_step(tmp_path / "cut" / "checkpoints") == 8  # three calls, and the pending one
    assert without_times(run("ce", tmp_path / "cut", **changes)) == without_times(whole)
    first, second = ((tmp_path / name / "predictions.npz").read_bytes() for name in ("whole", "cut"))
    assert first == second


def test_resume_is_bitwise_equal(tmp_path, monkeypatch):
    changes = {"train.checkpoint_steps": 7, "train.eval_steps": 4}
    run("rg", tmp_path / "whole", **changes)
    evaluate = metrics.balanced_accuracy
    calls = []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 5:  # at step 20: the row of step 16 is newer than the last checkpoint
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(metrics, "balanced_accuracy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("rg", tmp_path / "cut", **changes)
    monkeypatch.undo()
    assert [row["step"] for row in shown(tmp_path / "cut")] == [4, 8, 12, 16]
    run("rg", tmp_path / "cut", **changes)
    whole, cut = predictions(tmp_path / "whole"), predictions(tmp_path / "cut")
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name])

    def rows(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [
            {k: v for k, v in json.loads(line).items() if k in ("step", "val_ba", "val_macro_ap")} for line in lines
        ]

    assert rows("whole") == rows("cut")
    assert shown(tmp_path / "cut") == close_to(recorded(tmp_path / "cut"))


@pytest.fixture(scope="module")
def ce_of_three_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ce")
    run("ce", workdir, **{"train.steps": 3})
    return predictions(workdir)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"loss.name": "focal", "loss.gamma": 0.0},
        {"loss.name": "la", "loss.tau": 0.0},
        {"loss.name": "ldam", "loss.max_m": 0.0, "loss.s": 1.0, "model.head": "linear"},
    ],
    ids=lambda c: c["loss.name"],
)
def test_losses_with_neutral_hyper_parameters_are_ce(changes, tmp_path, ce_of_three_steps):
    run("ce", tmp_path, **{"train.steps": 3, **changes})
    expected = ce_of_three_steps["test_logits"]
    np.testing.assert_allclose(predictions(tmp_path)["test_logits"], expected, rtol=1e-3, atol=1e-4)


def test_posthoc_adjustment_subtracts_the_prior(tmp_path, ce_of_three_steps):
    run("la", tmp_path, **{"train.steps": 3, "loss.posthoc": True})
    shift = ce_of_three_steps["val_logits"] - predictions(tmp_path)["val_logits"]
    prior = np.bincount(ce_of_three_steps["val_labels"]) / len(shift)
    np.testing.assert_allclose(shift, np.broadcast_to(np.log(prior), shift.shape), atol=0.05)


@pytest.mark.long
def test_a_grid_shares_one_program(tmp_path, monkeypatch):
    programs, make = [], trainer.make_run_steps

    class Recorded:
        def __init__(self, run_steps):
            self.run_steps = run_steps

        def lower(self, *arguments):
            lowered = self.run_steps.lower(*arguments)
            programs.append(lowered.as_text())
            return lowered

    monkeypatch.setattr(trainer, "make_run_steps", lambda *args, **kwargs: Recorded(make(*args, **kwargs)))
    grid = [{"regroup.rule": "target", "regroup.threshold": 200}, {"regroup.rule": "target", "regroup.threshold": 400},
            {"loss.tau": 2.0, "train.lr": 0.01, "train.weight_decay": 0.0}]  # fmt: skip
    groups = [run("rg_la", tmp_path / str(i), **{"train.steps": 1} | point)["num_pseudo_classes"]
              for i, point in enumerate(grid)]  # fmt: skip
    assert len(set(groups)) == 3
    assert len(set(programs)) == 1


def test_a_batch_larger_than_the_training_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.train\.batch_size=5000: larger than the training set"):
        run("ce", tmp_path, **{"train.batch_size": 5000})


@pytest.mark.long
def test_a_population_writes_the_files_of_single_runs(tmp_path):
    changes = {"train.steps": 4, "train.checkpoint_steps": 2}
    config = method_config("rg", SMALL)
    config.update_from_flattened_dict(changes)
    trials = []
    for seed, lr in ((3, 0.005), (4, 0.002)):
        member = config.copy_and_resolve_references()
        member.update_from_flattened_dict({"seed": seed, "train.lr": lr})
        trials.append(trainer.Trial(member, tmp_path / f"seed-{seed}"))
    results = experiment.run_population(trials)
    assert [result["seed"] for result in results] == [3, 4]
    assert results[0]["timing"]["trials"] == 2
    run("rg", tmp_path / "alone", **changes, **{"seed": 4, "train.lr": 0.002})
    member, alone = predictions(tmp_path / "seed-4"), predictions(tmp_path / "alone")
    np.testing.assert_allclose(member["test_logits"], alone["test_logits"], rtol=1e-2, atol=1e-3)
    assert not np.allclose(predictions(tmp_path / "seed-3")["test_logits"], alone["test_logits"], atol=0.1)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("seed-3", "seed-4", "alone")]
    assert names[0] == names[1] == names[2]
    for trial in trials:
        assert shown(trial.workdir) == close_to(recorded(trial.workdir))
    with pytest.raises(ValueError, match="not traced"):
        experiment.run_population([trials[0], trials[1]._replace(config=method_config("ce", SMALL))])


@pytest.mark.soak
def test_trials_at_different_steps_all_finish(tmp_path):
    config = method_config("ce", SMALL | {"train.steps": 8, "train.checkpoint_steps": 3})
    trials = []
    for seed in range(3):
        member = config.copy_and_resolve_references()
        member.seed = seed
        trials.append(trainer.Trial(member, tmp_path / f"seed-{seed}"))
    whole = [trial._replace(workdir=trial.workdir / "whole") for trial in trials]
    experiment.run_population(whole)
    shutil.copytree(whole[1].workdir / "checkpoints", trials[1].workdir / "checkpoints")
    results = experiment.run_population(trials)
    assert [result["timing"]["trials"] for result in results] == [2, 1, 2]
    for trial, other in zip(trials, whole, strict=True):
        logits, expected = (predictions(w.workdir)["test_logits"] for w in (trial, other))
        np.testing.assert_allclose(logits, expected, rtol=1e-2, atol=1e-3)
