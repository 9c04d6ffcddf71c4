"""From a task to logits: the training of one trial, or of several as one program."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgjax import metrics, preemption
from rgjax.balance.deepsmote import Synthetic
from rgjax.batches import in_batches
from rgjax.build import as_trained, class_stats, loss_of, make_hyper, make_plan, packing
from rgjax.config import Config, identity
from rgjax.data import Dataset
from rgjax.data.augment import in_lanes, to_lanes
from rgjax.devices import by_trial, everywhere, in_any_process, is_first_process, make_mesh, place, stack, wait_for_all
from rgjax.models.resnet import ResNet
from rgjax.models.tokenizer import Tokens
from rgjax.models.transformer import BertClassifier
from rgjax.placement import Host, Resident, Streamed, device_memory, streams
from rgjax.regroup import Regrouping
from rgjax.trackers import Trackers
from rgjax.training import faults
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.loop import fit, largest_batch, outputs_lost
from rgjax.training.program import AXIS, init_state, layout_for, make_predict, make_run_steps


@dataclass(frozen=True)
class Task:
    """What trials are trained and judged on.

    Judged on the `dataset`; trained on the `rows` [N] of `inputs`, which are the data set's as the network reads them,
    with their (pseudo-)labels `labels` [N]. Synthetic ones come behind the data set's. `pool` [P] is the sampler's, of
    positions in 0..N-1. Where they are from: the label map of the data set's training rows, their clusters [N_train],
    the features [N_train, D] that those were found in, if any, and what is `synthetic`.
    """

    dataset: Dataset
    inputs: np.ndarray | Tokens
    rows: np.ndarray
    labels: np.ndarray
    pool: np.ndarray
    regrouping: Regrouping
    clusters: np.ndarray
    features: np.ndarray | None
    synthetic: Synthetic | None

    def ids(self, rows: np.ndarray) -> list[str]:
        """The names of `rows` of the inputs."""
        real = len(self.dataset.ids)
        return [self.dataset.ids[row].item() if row < real else f"synthetic image {row - real}" for row in rows]


class Trial(NamedTuple):
    """One run: its settings and its folder."""

    config: Config
    workdir: Path


class Trained(NamedTuple):
    """Of each trial the pseudo-class logits [n, K] of the validation and test rows after the last step, or, of those
    `lost`, what was wrong; how many of its steps were skipped; and the seconds that all of them took together."""

    logits: list[dict[str, np.ndarray]]
    lost: dict[int, str]
    skipped: list[int]
    timing: dict


def train(task: Task, trials: Sequence[Trial], models: Sequence[ResNet | BertClassifier]) -> Trained:
    """Train each trial's model, or go on with it from its checkpoint: all as one program, and from the same step."""
    config = trials[0].config
    settings, loss = config.train, loss_of(config)
    dataset, inputs, regrouping, pool = task.dataset, task.inputs, task.regrouping, task.pool
    rows_per_epoch = len(pool) if settings.epoch_size == "sampler" else len(dataset.train)
    plan, *_ = plans = [make_plan(trial.config, rows_per_epoch) for trial in trials]
    stats = class_stats(config, regrouping)
    mesh = make_mesh(jax.devices(), trials=len(trials), batch_size=settings.batch_size)
    shared, apart = everywhere(mesh), by_trial(mesh)

    checkpoints = [Checkpoints(trial.workdir / "checkpoints") for trial in trials]
    graphs, states = zip(*(init_state(model, settings.optimizer) for model in models), strict=True)
    states, clocks, skipped = zip(
        *(own.restore(state, shared) for own, state in zip(checkpoints, states, strict=True)), strict=True
    )
    layout = layout_for(jax.default_backend(), states[0].params)
    state, train_s = place(stack([layout.store(own) for own in states]), apart), max(clocks)
    del states
    step = int(np.asarray(state.step)[0])
    skip = settings.on_nan == "skip"

    hyper = [make_hyper(trial.config, own, loss, stats) for trial, own in zip(trials, plans, strict=True)]
    hyper, keys = place(stack(hyper), apart), [jax.random.key(trial.config.seed) for trial in trials]
    size = mesh.shape[AXIS] * -(-min(256, max(len(dataset.val), len(dataset.test))) // mesh.shape[AXIS])
    batches = {part: in_batches(getattr(dataset, part), size) for part in ("val", "test")}
    if isinstance(inputs, Tokens):
        lengths = inputs.lengths[task.rows]
        prepare = packing(max(largest_batch(lengths, pool, key, plan, devices=mesh.shape[AXIS]) for key in keys))
        sums = (inputs.lengths[rows].reshape(-1, size // mesh.shape[AXIS]).sum(axis=1) for rows in batches.values())
        prepare_eval = packing(max(map(max, sums)))
        host = Host(inputs)
    else:
        _, prepare = in_lanes(inputs[:1])
        prepare_eval, host = prepare, Host(inputs, to_lanes)
    rows = task.rows, task.labels, pool
    if streams(config.data.placement, host, mesh.shape[AXIS], device_memory()):
        feed = Streamed(host, rows, plan, mesh, keys)
    else:
        feed = Resident(host, rows, plan, mesh)
    key = place(jnp.stack(keys), apart)
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
    compiled = run_steps.lower(state, place(np.int32(1), shared), feed.at(now), hyper, key).compile()
    compile_s = time.perf_counter() - compiling
    wait_for_all("the program")  # a process whose first call finds no partner for half a minute gives up
    predict = make_predict(graphs[0], prepare_eval, mesh, layout)
    member = jax.jit(lambda state, i: layout.as_tree(jax.tree.map(lambda x: x[i], state)), out_shardings=shared)

    def predict_part(state, part) -> list[np.ndarray]:
        windows = feed.windows(batches[part])
        logits = np.concatenate([predict(state, inputs, rows) for inputs, rows in windows], axis=1)
        logits = logits[:, : len(getattr(dataset, part)), : regrouping.num_pseudo_classes]
        return [np.asarray(as_trained(trial.config, stats, rows)) for trial, rows in zip(trials, logits, strict=True)]

    def evaluate(state):
        return [validate(task, logits, config.regroup.aggregate) for logits in predict_part(state, "val")]

    def save(state, seconds, skipped, lost):
        for i, own in enumerate(checkpoints):
            if i not in lost:
                own.save(member(state, np.int32(i)), seconds, int(skipped[i]))

    def lose(i, state, fault):
        rows = task.rows[faults.batch_of(keys[i], fault.step, pool, plan)]
        rate = faults.rate_at(fault.step, trials[i].config.train.lr, plans[i])
        own = member(state, np.int32(i))
        return faults.keep(trials[i].workdir / "debug", own, fault, rate=rate, rows=rows, ids=task.ids(rows))

    def log(i, row):
        if is_first_process():
            trackers[i].log(row)

    def preempted() -> Callable[[], bool]:
        if jax.process_count() == 1:
            return preemption.asked
        found = in_any_process(preemption.asked())

        def known() -> bool:
            if ends := found():
                preemption.ask()  # the processes end together, at the same step
            return ends

        return known

    before_s = train_s
    trackers = [
        Trackers(trial.config.trackers, trial.workdir, step, identity(trial.config))
        for trial in trials
        if is_first_process()
    ]
    with preemption.saving():
        try:
            state, train_s, skipped, lost = fit(
                lambda state, step, count: compiled(state, place(np.int32(count), shared), feed.at(step), hyper, key),
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
    of_trials = [{part: logits[part][i] for part in logits} for i in range(len(trials))]
    return Trained(of_trials, lost, skipped.tolist(), timing)


def validate(task: Task, logits: np.ndarray, how: str) -> dict[str, float] | None:
    """How well the pseudo-class logits [n, K] of the validation rows tell the classes; None if one is not finite."""
    if not np.isfinite(logits).all():
        return None
    dataset = task.dataset
    logits, labels = task.regrouping.class_logits(logits, how), dataset.labels[dataset.val]
    ap = metrics.average_precision(metrics.log_odds(logits), labels)
    ba = metrics.balanced_accuracy(labels, logits.argmax(axis=1), len(dataset.class_names))
    return {"val_ba": float(ba), "val_macro_ap": float(np.nanmean(ap))}
