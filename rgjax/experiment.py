"""The method, read from top to bottom: data, features, groups, sampling, training, aggregation, result."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from rgjax import data, metrics, provenance
from rgjax.balance.samplers import SAMPLERS
from rgjax.batches import in_batches
from rgjax.config import Config, duration
from rgjax.data.augment import prepare_images
from rgjax.encoders import Encoder, features
from rgjax.encoders.bert import DEFAULT as BERT
from rgjax.encoders.bert import bert, encode_tokens
from rgjax.encoders.clip import DEFAULT as CLIP
from rgjax.encoders.clip import clip
from rgjax.encoders.projection import encode_images, projection
from rgjax.errors import UserError
from rgjax.figures import draw_groups
from rgjax.losses import LOSSES, ClassStats, Loss, adjust_logits
from rgjax.models.pretrained import Checkpoint, report_unused
from rgjax.models.resnet import ResNet
from rgjax.models.tokenizer import Tokens, tokenise
from rgjax.models.transformer import BertClassifier, bert_config, prepare_tokens
from rgjax.regroup import AGGREGATIONS, Regrouping, aggregate, regroup
from rgjax.storage import digest, write_json, write_npz
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import Plan, fit
from rgjax.training.program import Hyper, TrainData, init_state, largest_batch, make_predict, make_run_steps

Say: TypeAlias = Callable[[str], None]


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
    inputs = network_inputs(config, dataset.inputs)
    regrouping, clusters, found = make_groups(config, dataset, say)
    say(describe_groups(regrouping, dataset))
    model = make_model(config, regrouping.num_pseudo_classes, say)

    # All that a user may have to mend is read by now: from here on the workdir is this run's.
    weights = {"weights": bert_checkpoint(config).fingerprint()} if config.model.name == "bert" else {}
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
    logits, timing = train_and_predict(config, workdir, dataset, inputs, regrouping, pool, model)

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


def load_data(config: Config) -> data.Dataset:
    dataset = data.load(
        config.data.name,
        image_size=config.data.image_size,
        manual_dir=config.data.manual_dir,
        data_dir=config.data.data_dir,
        agreement=config.data.agreement,
        split_kind=config.data.split,
        positive=config.data.positive,
        seed=config.data.seed,
        test_fraction=config.data.test_fraction,
        val_fraction=config.data.val_fraction,
    )
    if config.train.batch_size > len(dataset.train):
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is larger than the training set of "
            f"{len(dataset.train)} {dataset.kind}: lower it"
        )
    return dataset


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


def make_encoder(config: Config, kind: str, say: Say) -> Encoder:
    """The encoder of the config; its weights are fetched and read only when features are computed."""
    name, checkpoint = config.encoder.name, config.encoder.checkpoint
    by_kind = {"images": ("clip", "projection"), "sentences": ("bert",)}
    if name == "auto":
        name = by_kind[kind][0]
    if name == "checkpoint":
        return encoder_of_run(Path(checkpoint), say)
    if name not in by_kind[kind]:
        others = ", ".join((*by_kind[kind], "checkpoint"))
        raise UserError(f"config.encoder.name={name} cannot encode {kind}: use {others}")
    if name == "projection":
        return projection(seed=config.encoder.seed)
    other = "projection" if kind == "images" else "checkpoint"
    ways_out = f"a local folder (--config.encoder.checkpoint=FOLDER) or another encoder (--config.encoder.name={other})"
    if name == "clip":
        weights = Checkpoint(checkpoint or CLIP, ways_out=ways_out)
        return clip(weights, unit_length=config.encoder.unit_length, say=say)
    weights = Checkpoint(checkpoint or BERT, ways_out=ways_out)
    return bert(weights, pooling=config.encoder.pooling, max_length=config.data.max_length, say=say)


def encoder_of_run(workdir: Path, say: Say) -> Encoder:
    """The penultimate features of the network that an earlier run has trained, on data of the same kind."""
    if not (workdir / "result.json").is_file():
        raise UserError(f"config.encoder.checkpoint={workdir} is no workdir of a finished run")
    config: Config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    with np.load(workdir / "predictions.npz") as file:
        outputs = len(file["parent"])
    model = make_model(config, outputs, say)
    graph, state = init_state(model, config.train.optimizer)
    state, _ = Checkpoints(workdir / "checkpoints").restore(state)
    params = jax.device_get((state.params, state.batch_stats))

    def encode(inputs: np.ndarray) -> np.ndarray:
        rows = network_inputs(config, inputs)
        if isinstance(rows, Tokens):
            return encode_tokens(lambda params, packed: nnx.merge(graph, *params).features(packed), params, rows)
        return encode_images(lambda params, x: nnx.merge(graph, *params, copy=True).features(x), params, rows)

    return Encoder(digest("run-v1", *map(np.asarray, jax.tree.leaves(params))), encode)


def train_and_predict(
    config: Config,
    workdir: Path,
    dataset: data.Dataset,
    inputs: np.ndarray | Tokens,
    regrouping: Regrouping,
    pool: np.ndarray,
    model: ResNet | BertClassifier,
) -> tuple[dict[str, np.ndarray], dict]:
    """Pseudo-class logits [n, K] of the validation and test rows after the last step, and the timing."""
    train = config.train
    plan = make_plan(config, len(pool) if train.epoch_size == "sampler" else len(dataset.train))
    stats = ClassStats(regrouping.class_counts if config.loss.stats == "class" else regrouping.counts)
    posthoc = config.loss.name == "la" and config.loss.posthoc
    loss = loss_of(config)
    hyper = make_hyper(config, plan, loss, stats)
    graph, state = init_state(model, train.optimizer)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, train_s = checkpoints.restore(state)
    keep_rows(workdir / "metrics.jsonl", until_step=int(state.step))

    on_device = TrainData(*jax.device_put((inputs, dataset.train, regrouping.pseudo_labels, pool)))
    hyper = jax.device_put(hyper)
    key = jax.random.key(config.seed)
    size = min(256, max(len(dataset.val), len(dataset.test)))
    batches = {part: in_batches(getattr(dataset, part), size) for part in ("val", "test")}
    prepare = prepare_eval = prepare_images
    if isinstance(inputs, Tokens):
        most = largest_batch(
            inputs.lengths[dataset.train],
            pool,
            key,
            epochs=-(-plan.total_steps // plan.steps_per_epoch),
            steps_per_epoch=plan.steps_per_epoch,
            batch_size=train.batch_size,
        )
        prepare = partial(prepare_tokens, budget=token_budget(most))
        most = max(inputs.lengths[rows].sum(axis=1).max() for rows in batches.values())
        prepare_eval = partial(prepare_tokens, budget=token_budget(most))
    run_steps = make_run_steps(
        graph,
        loss.function,
        prepare,
        optimizer=train.optimizer,
        batch_size=train.batch_size,
        steps_per_epoch=plan.steps_per_epoch,
    )
    compiling = time.perf_counter()
    compiled = run_steps.lower(state, jnp.int32(1), on_device, hyper, key).compile()
    compile_s = time.perf_counter() - compiling
    predict = make_predict(graph, prepare_eval)

    def predict_part(state, part):
        logits = predict(state.params, state.batch_stats, on_device.inputs, batches[part])
        logits = logits[: len(getattr(dataset, part))] * np.float32(loss.scale(config.loss))
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
            lambda state, count: compiled(state, jnp.int32(count), on_device, hyper, key),
            state,
            plan,
            train_s=train_s,
            evaluate=evaluate,
            save=checkpoints.save,
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


def make_plan(config: Config, rows_per_epoch: int) -> Plan:
    train = config.train
    steps_per_epoch = max(1, rows_per_epoch // train.batch_size)
    total_steps = train.steps or train.epochs * steps_per_epoch
    steps = partial(duration, config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return Plan(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        steps_per_call=train.steps_per_call,
        warmup=steps("train.warmup") or 0,
        drw_start=steps("loss.drw_start"),
        eval_every=steps("train.eval", whole_epochs=True) or total_steps,
        checkpoint_every=steps("train.checkpoint", whole_epochs=True) or total_steps,
        batch_size=train.batch_size,
    )


def make_hyper(config: Config, plan: Plan, loss: Loss, stats: ClassStats) -> Hyper:
    weights = stats.inverse_weights if config.loss.name == "wce" else np.ones(len(stats.counts), np.float32)
    augmentation = {}
    if config.model.name != "bert":
        flip, rotation = 0.5 if config.data.flip else 0.0, config.data.rotation
        augmentation = {"flip": np.float32(flip), "rotation": np.float32(rotation)}
    return Hyper(
        lr=np.float32(config.train.lr),
        momentum=np.float32(config.train.momentum),
        weight_decay=np.float32(config.train.weight_decay),
        warmup_steps=np.int32(plan.warmup),
        total_steps=np.int32(plan.total_steps),
        augmentation=augmentation,
        loss=loss.arguments(config.loss, stats),
        class_weights=weights,
        drw_weights=weights if plan.drw_start is None else stats.effective_weights(),
        drw_start=np.int32(plan.total_steps if plan.drw_start is None else plan.drw_start),
    )


def loss_of(config: Config) -> Loss:
    """What is trained by: post-hoc logit adjustment trains by cross-entropy."""
    return LOSSES["ce" if config.loss.name == "la" and config.loss.posthoc else config.loss.name]


def make_model(config: Config, outputs: int, say: Say) -> ResNet | BertClassifier:
    """The network before training."""
    model = config.model
    head = loss_of(config).head if model.head == "auto" else model.head
    dtype = jnp.dtype(("float32" if on_cpu() else "bfloat16") if model.dtype == "auto" else model.dtype)
    rng = np.random.default_rng(config.seed)
    if model.name != "bert":
        return ResNet(model.name, outputs, stem=model.stem, head=head, width=model.width, dtype=dtype, rng=rng)
    checkpoint = bert_checkpoint(config)
    tensors = checkpoint.tensors()
    network = BertClassifier(
        tensors, bert_config(checkpoint), outputs, head=head, dropout=model.dropout, dtype=dtype, rng=rng
    )
    report_unused(tensors, checkpoint.name, say)
    return network


def bert_checkpoint(config: Config) -> Checkpoint:
    return Checkpoint(config.model.checkpoint or BERT, ways_out="a local folder (--config.model.checkpoint=FOLDER)")


def network_inputs(config: Config, inputs: np.ndarray) -> np.ndarray | Tokens:
    """Rows of a data set as the network's program reads them: images as they are, sentences as tokens."""
    text, name = inputs.ndim == 1, config.model.name
    if text != (name == "bert"):
        kind, fitting = ("sentences", "bert") if text else ("images", "resnet34")
        raise UserError(f"config.model.name={name} does not read {kind}: use --config.model.name={fitting}")
    if not text:
        return inputs
    checkpoint = bert_checkpoint(config)
    checkpoint.weight_files()
    return tokenise(checkpoint, bert_config(checkpoint), inputs, config.data.max_length)


def token_budget(tokens: int) -> int:
    """Rounded up, so that seeds and methods mostly share a compiled program."""
    return -(-tokens // 64) * 64


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


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
