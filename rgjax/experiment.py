"""The method, read from top to bottom: data, features, groups, sampling, training, aggregation, result."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rgjax import data, metrics, provenance
from rgjax.balance.samplers import SAMPLERS
from rgjax.batches import in_batches
from rgjax.build import (
    Say,
    adjusts_posthoc,
    bert_checkpoint,
    load_data,
    loss_of,
    make_encoder,
    make_hyper,
    make_mesh,
    make_model,
    make_plan,
    network_inputs,
    packing,
)
from rgjax.config import Config
from rgjax.data.augment import prepare_images
from rgjax.encoders import features
from rgjax.figures import draw_groups
from rgjax.losses import ClassStats, adjust_logits
from rgjax.models.resnet import ResNet
from rgjax.models.tokenizer import FILES, Tokens
from rgjax.models.transformer import BertClassifier
from rgjax.regroup import AGGREGATIONS, Regrouping, aggregate, regroup
from rgjax.storage import digest, write_json, write_npz
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import fit, largest_batch
from rgjax.training.program import TrainData, init_state, layout_for, make_predict, make_run_steps


def run(config: Config, workdir: Path, say: Say) -> dict:
    """Run, or go on with, the experiment that `config` describes, and return what stands in `result.json`.

    A finished workdir returns its result at once. Raises UserError for what the user can mend.
    """
    if (workdir / "result.json").exists():
        return json.loads((workdir / "result.json").read_text())
    started = time.perf_counter()

    dataset = load_data(config)
    sizes = ", ".join(f"{len(getattr(dataset, part))} {part}" for part in ("train", "val", "test"))
    say(f"{dataset.name}: {sizes} {dataset.kind}")
    mesh = make_mesh(config)
    inputs = network_inputs(config, dataset.inputs)
    regrouping, clusters, found = make_groups(config, dataset, say)
    say(describe_groups(regrouping, dataset))
    model = make_model(config, regrouping.num_pseudo_classes, say)

    # All that a user may have to mend is read by now: from here on the workdir is this run's.
    weights = {"weights": bert_checkpoint(config).fingerprint(*FILES)} if config.model.name == "bert" else {}
    provenance.write(workdir / "provenance.json", data=dataset.fingerprint, regrouping=digest(clusters), **weights)
    write_npz(
        workdir / "split.npz",
        **{part: getattr(dataset, part) for part in ("train", "val", "test")},
        seed=np.array(config.data.seed),
    )
    write_npz(
        workdir / "regrouping.npz",
        rows=dataset.train,
        pseudo_labels=regrouping.pseudo_labels,
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
    )

    if regrouping.num_pseudo_classes > regrouping.num_classes and not (workdir / "groups" / "sizes.png").exists():
        draw_groups(workdir / "groups", dataset.inputs[dataset.train], regrouping, found, dataset.class_names)

    pool = SAMPLERS[config.sampler](dataset.labels[dataset.train], clusters, config.data.seed)
    logits, timing = train_and_predict(config, workdir, dataset, inputs, regrouping, pool, model, mesh)

    write_npz(
        workdir / "predictions.npz",
        parent=regrouping.parent,
        class_names=np.array(dataset.class_names),
        **{f"{part}_logits": logits[part] for part in logits},
        **{f"{part}_labels": dataset.labels[getattr(dataset, part)] for part in logits},
        **{f"{part}_ids": dataset.ids[getattr(dataset, part)] for part in logits},
    )
    by_aggregation = {
        how: {part: score(logits[part], part, how, dataset, regrouping, config.seed) for part in logits}
        for how in AGGREGATIONS
    }
    chosen = by_aggregation[config.regroup.aggregate]
    result = {
        "dataset": dataset.name,
        "method": config.method,
        "seed": config.seed,
        "num_classes": len(dataset.class_names),
        "num_pseudo_classes": regrouping.num_pseudo_classes,
        "aggregate": config.regroup.aggregate,
        "train_counts": counts_by_name(dataset, dataset.train),
        "val": chosen["val"],
        "test": chosen["test"],
        "test_by_aggregation": {how: parts["test"] for how, parts in by_aggregation.items()},
        "timing": timing | {"total_s": round(time.perf_counter() - started, 3)},
    }
    write_json(workdir / "result.json", result)
    return result


def make_groups(config: Config, dataset: data.Dataset, say: Say) -> tuple[Regrouping, np.ndarray, np.ndarray | None]:
    """The label map that is trained on, the clusters [N_train] that a cluster-stratified sampler draws from, and the
    features [N_train, D] that they were found in, if any."""
    labels = dataset.labels[dataset.train]
    by_sampler = config.sampler == "rusc"
    clustering = "kmeans" if by_sampler else config.regroup.clustering
    found = None
    if clustering == "kmeans":
        encoder = make_encoder(config, dataset.kind, say)
        found = features(encoder, dataset.inputs[dataset.train], digest(dataset.fingerprint, dataset.train))
    grouping = regroup(
        found,
        labels,
        len(dataset.class_names),
        rule=config.regroup.rule,
        threshold=config.regroup.threshold,
        clustering=clustering,
        seed=config.regroup.seed,
        n_init=config.regroup.n_init,
    )
    trained_on = Regrouping.identity(labels, len(dataset.class_names)) if by_sampler else grouping
    return trained_on, grouping.pseudo_labels, found


def train_and_predict(
    config: Config,
    workdir: Path,
    dataset: data.Dataset,
    inputs: np.ndarray | Tokens,
    regrouping: Regrouping,
    pool: np.ndarray,
    model: ResNet | BertClassifier,
    mesh: Mesh,
) -> tuple[dict[str, np.ndarray], dict]:
    """Pseudo-class logits [n, K] of the validation and test rows after the last step, and the timing."""
    train = config.train
    plan = make_plan(config, len(pool) if train.epoch_size == "sampler" else len(dataset.train))
    stats = ClassStats(regrouping.class_counts if config.loss.stats == "class" else regrouping.counts)
    posthoc = adjusts_posthoc(config)
    loss = loss_of(config)
    hyper = make_hyper(config, plan, loss, stats)
    everywhere = NamedSharding(mesh, PartitionSpec())
    graph, state = init_state(model, train.optimizer)
    state = jax.device_put(state, everywhere)
    layout = layout_for(jax.default_backend(), state.params)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, train_s = checkpoints.restore(state)
    keep_rows(workdir / "metrics.jsonl", until_step=int(state.step))

    on_device = TrainData(*jax.device_put((inputs, dataset.train, regrouping.pseudo_labels, pool), everywhere))
    hyper, key = jax.device_put((hyper, jax.random.key(config.seed)), everywhere)
    size = mesh.size * -(-min(256, max(len(dataset.val), len(dataset.test))) // mesh.size)
    batches = {part: in_batches(getattr(dataset, part), size) for part in ("val", "test")}
    prepare = prepare_eval = prepare_images
    if isinstance(inputs, Tokens):
        prepare = packing(largest_batch(inputs.lengths[dataset.train], pool, key, plan, devices=mesh.size))
        sums = (inputs.lengths[rows].reshape(-1, size // mesh.size).sum(axis=1) for rows in batches.values())
        prepare_eval = packing(max(map(max, sums)))
    run_steps = make_run_steps(
        graph,
        loss.function,
        prepare,
        optimizer=train.optimizer,
        batch_size=train.batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        mesh=mesh,
        layout=layout,
    )
    state = layout.store(state)
    compiling = time.perf_counter()
    compiled = run_steps.lower(state, jax.device_put(np.int32(1), everywhere), on_device, hyper, key).compile()
    compile_s = time.perf_counter() - compiling
    predict = make_predict(graph, prepare_eval, mesh)

    def predict_part(state, part):
        logits = predict(layout.as_tree(state.params), state.batch_stats, on_device.inputs, batches[part])
        logits = logits[: len(getattr(dataset, part)), : regrouping.num_pseudo_classes]
        logits = logits * np.float32(loss.scale(config.loss))
        return np.asarray(adjust_logits(logits, stats.prior, np.float32(config.loss.tau))) if posthoc else logits

    def evaluate(state):
        logits = aggregated(predict_part(state, "val"), regrouping, config.regroup.aggregate)
        labels = dataset.labels[dataset.val]
        ap = metrics.average_precision(metrics.log_odds(logits), labels)
        ba = metrics.balanced_accuracy(labels, logits.argmax(axis=1), len(dataset.class_names))
        return {"val_ba": float(ba), "val_macro_ap": float(np.nanmean(ap))}

    def log(row):
        with open(workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    first_step, before_s = int(state.step), train_s
    try:
        state, train_s = fit(
            lambda state, count: compiled(state, jax.device_put(np.int32(count), everywhere), on_device, hyper, key),
            state,
            plan,
            train_s=train_s,
            evaluate=evaluate,
            save=lambda state, seconds: checkpoints.save(layout.as_tree(state), seconds),
            log=log,
        )
    finally:
        checkpoints.close()
    done = plan.total_steps - first_step
    timing = {
        "compile_s": round(compile_s, 3),
        "train_s": round(train_s, 3),
        "examples_per_s": round(done * train.batch_size / (train_s - before_s), 2) if done else None,
    }
    return {part: predict_part(state, part) for part in ("val", "test")}, timing


def score(logits, part: str, how: str, dataset, regrouping, seed: int) -> dict:
    labels = dataset.labels[getattr(dataset, part)]
    return metrics.evaluate(aggregated(logits, regrouping, how), labels, dataset.class_names, seed=seed)


def aggregated(logits: np.ndarray, regrouping: Regrouping, how: str) -> np.ndarray:
    return np.asarray(aggregate(logits, regrouping.parent, regrouping.num_classes, how))


def keep_rows(path: Path, *, until_step: int) -> None:
    """Drop the rows of a metrics file that the resumed training will write again."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if line.endswith("}")]
        path.write_text("".join(f"{row}\n" for row in rows if json.loads(row)["step"] <= until_step))


def counts_by_name(dataset, rows) -> dict[str, int]:
    counts = np.bincount(dataset.labels[rows], minlength=len(dataset.class_names))
    return dict(zip(dataset.class_names, counts.tolist(), strict=True))


def describe_groups(regrouping: Regrouping, dataset) -> str:
    groups = np.bincount(regrouping.parent, minlength=len(dataset.class_names))
    named = zip(counts_by_name(dataset, dataset.train).items(), groups, strict=True)
    text = ", ".join(f"{name} {n}" + (f" in {k} groups" if k > 1 else "") for (name, n), k in named)
    return f"training {dataset.kind}: {text}; pseudo-classes: {regrouping.num_pseudo_classes}"
