"""From a task to logits: the training of one trial, or of several as one program."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rgjax import console, metrics
from rgjax.config import Config, identity
from rgjax.data import Dataset
from rgjax.data.augment import in_lanes, to_lanes
from rgjax.losses import class_stats, loss_of, scale_logits
from rgjax.models.factory import Network, packing
from rgjax.models.tokenizer import Tokens
from rgjax.regroup import Regrouping
from rgjax.sampling.deepsmote import Synthetic
from rgjax.sharding import (
    AXIS,
    in_any_process,
    in_batches,
    is_first_process,
    put,
    replicated,
    stack,
    trial_sharded,
    wait_for_all,
)
from rgjax.training import faults
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.feed import DeviceFeed, HostData, StreamFeed, device_memory, streams
from rgjax.training.loop import fit, largest_batch, outputs_lost
from rgjax.training.program import init_state, layout_for, make_predict, make_run_steps
from rgjax.training.setup import make_hyper, make_schedule
from rgjax.training.trackers import Trackers


@dataclass(frozen=True)
class Task:
    """What trials are trained on, and the data set that they are evaluated on.

    Attributes:
        dataset: for evaluation.
        inputs: its inputs as the network reads them; synthetic images are appended after the real ones.
        indices: the training examples [N] in `inputs`.
        labels: their (pseudo-)labels [N].
        pool: what the sampler draws from [P], positions in 0..N-1.
        regrouping: the label map of the data set's training split.
        clusters: the clusters [N_train] of that split.
        features: the features [N_train, D] that were clustered, if any.
        synthetic: the synthetic images, if any.
    """

    dataset: Dataset
    inputs: np.ndarray | Tokens
    indices: np.ndarray
    labels: np.ndarray
    pool: np.ndarray
    regrouping: Regrouping
    clusters: np.ndarray
    features: np.ndarray | None
    synthetic: Synthetic | None

    def ids(self, indices: np.ndarray) -> list[str]:
        """The names of examples of `inputs`."""
        real = len(self.dataset.ids)
        return [self.dataset.ids[i].item() if i < real else f"synthetic image {i - real}" for i in indices]


class Trial(NamedTuple):
    """One run: its settings and its folder."""

    config: Config
    workdir: Path


class Outcome(NamedTuple):
    """Final validation and test logits [n, K] of a trial by split, its skipped steps, or its error if it diverged."""

    logits: dict[str, np.ndarray]
    skipped: int
    error: str | None


def train(
    task: Task, trials: Sequence[Trial], models: Sequence[Network], mesh: Mesh
) -> tuple[list[Outcome], dict[str, Any]]:
    """Train each trial's model, or go on with it from its checkpoint: all as one program, and from the same step."""
    config = trials[0].config
    settings, loss = config.train, loss_of(config.loss)
    dataset, inputs, regrouping, pool = task.dataset, task.inputs, task.regrouping, task.pool
    rows_per_epoch = len(pool) if settings.epoch_size == "sampler" else len(dataset.train)
    plan, *_ = plans = [make_schedule(trial.config, rows_per_epoch) for trial in trials]
    stats = class_stats(config.loss, regrouping)
    shared, apart = replicated(mesh), trial_sharded(mesh)

    checkpoints = [Checkpoints(trial.workdir / "checkpoints") for trial in trials]
    graphs, states = zip(*(init_state(model, settings.optimizer) for model in models), strict=True)
    states, clocks, skipped = zip(
        *(own.restore(state, shared) for own, state in zip(checkpoints, states, strict=True)), strict=True
    )
    layout = layout_for(jax.default_backend(), states[0].params)
    state, train_s = put(stack([layout.store(own) for own in states]), apart), max(clocks)
    del states
    step = int(np.asarray(state.step)[0])
    skip = settings.on_nan == "skip"

    hyper = [make_hyper(trial.config, own, stats) for trial, own in zip(trials, plans, strict=True)]
    hyper, keys = put(stack(hyper), apart), [jax.random.key(trial.config.seed) for trial in trials]
    size = mesh.shape[AXIS] * -(-min(256, max(len(dataset.val), len(dataset.test))) // mesh.shape[AXIS])
    batches = {part: in_batches(getattr(dataset, part), size) for part in ("val", "test")}
    if isinstance(inputs, Tokens):
        lengths = inputs.lengths[task.indices]
        prepare = packing(max(largest_batch(lengths, pool, key, plan, devices=mesh.shape[AXIS]) for key in keys))
        sums = (inputs.lengths[rows].reshape(-1, size // mesh.shape[AXIS]).sum(axis=1) for rows in batches.values())
        prepare_eval = packing(max(map(max, sums)))
        host = HostData(inputs)
    else:
        _, prepare = in_lanes(inputs[:1])
        prepare_eval, host = prepare, HostData(inputs, to_lanes)
    rows = task.indices, task.labels, pool
    if streams(config.data.placement, host, mesh.shape[AXIS], device_memory()):
        feed = StreamFeed(host, rows, plan, mesh, keys)
    else:
        feed = DeviceFeed(host, rows, plan, mesh)
    key = put(jnp.stack(keys), apart)
    run_steps = make_run_steps(
        graphs[0],
        loss.function,
        prepare,
        optimizer=settings.optimizer,
        batch_size=settings.batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        mesh=mesh,
        layout=layout,
        skip=skip,
    )
    compiling = time.perf_counter()
    now = min(step, plan.total_steps - 1)
    compiled = run_steps.lower(state, put(np.int32(1), shared), feed.at(now), hyper, key).compile()
    compile_s = time.perf_counter() - compiling
    wait_for_all("the program")  # a process whose first call finds no partner for half a minute gives up
    predict = make_predict(graphs[0], prepare_eval, mesh, layout)
    member = jax.jit(lambda state, i: layout.as_tree(jax.tree.map(lambda x: x[i], state)), out_shardings=shared)

    def predict_part(state, part) -> list[np.ndarray]:
        windows = feed.windows(batches[part])
        logits = np.concatenate([predict(state, inputs, rows) for inputs, rows in windows], axis=1)
        logits = logits[:, : len(getattr(dataset, part)), : regrouping.num_pseudo_classes]
        return [
            np.asarray(scale_logits(trial.config.loss, stats, rows)) for trial, rows in zip(trials, logits, strict=True)
        ]

    def evaluate(state):
        return [validate(task, logits, config.regroup.aggregate) for logits in predict_part(state, "val")]

    def save(state, seconds, skipped, lost):
        for i, own in enumerate(checkpoints):
            if i not in lost:
                own.save(member(state, np.int32(i)), seconds, int(skipped[i]))

    def lose(i, state, fault):
        rows = task.indices[faults.batch_of(keys[i], fault.step, pool, plan)]
        rate = faults.rate_at(fault.step, trials[i].config.train.lr, plans[i])
        own = member(state, np.int32(i))
        return faults.keep(trials[i].workdir / "debug", own, fault, rate=rate, rows=rows, ids=task.ids(rows))

    def log(i, row):
        if is_first_process():
            trackers[i].log(row)

    def preempted() -> Callable[[], bool]:
        if jax.process_count() == 1:
            return console.sigterm_requested
        found = in_any_process(console.sigterm_requested())

        def known() -> bool:
            if ends := found():
                console.request_sigterm()  # the processes end together, at the same step
            return ends

        return known

    before_s = train_s
    trackers = [
        Trackers(trial.config.trackers, trial.workdir, step, identity(trial.config))
        for trial in trials
        if is_first_process()
    ]
    with console.deferring_sigterm():
        try:
            state, train_s, skipped, lost = fit(
                lambda state, step, count: compiled(state, put(np.int32(count), shared), feed.at(step), hyper, key),
                state,
                feed.plan,
                train_s=train_s,
                skipped=np.array(skipped),
                evaluate=evaluate,
                save=save,
                log=log,
                lose=lose,
                skip=skip,
                preempted=preempted,
            )
        finally:
            for own in (*checkpoints, *trackers):
                own.close()
    logits = {part: predict_part(state, part) for part in batches}
    for i in range(len(trials)):
        if not np.isfinite(logits["test"][i]).all():
            lost.setdefault(i, outputs_lost(plan.total_steps))
    done = len(trials) * (plan.total_steps - step) * settings.batch_size
    timing = {
        "trials": len(trials),
        "compile_s": round(compile_s, 3),
        "train_s": round(train_s, 3),
        "examples_per_s": round(done / (train_s - before_s), 2) if done else None,
    }
    outcomes = [
        Outcome({split: logits[split][i] for split in logits}, int(skipped[i]), lost.get(i)) for i in range(len(trials))
    ]
    return outcomes, timing


def validate(task: Task, logits: np.ndarray, how: str) -> dict[str, float] | None:
    """How well the pseudo-class logits [n, K] of the validation rows tell the classes; None if one is not finite."""
    if not np.isfinite(logits).all():
        return None
    dataset = task.dataset
    logits, labels = task.regrouping.class_logits(logits, how), dataset.labels[dataset.val]
    ap = metrics.average_precision(metrics.log_odds(logits), labels)
    ba = metrics.balanced_accuracy(labels, logits.argmax(axis=1), len(dataset.class_names))
    return {"val_ba": float(ba), "val_macro_ap": float(np.nanmean(ap))}
