"""Rehearse methods on folds of custom data, with heads on frozen features.

`python -m rgjax.data.inspect PLACE --rehearse` answers whether regrouping helps on the data. The commands that it needs
(encoders, sweep, report) are rooms above this one, so they run as processes.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import IO, Any, NamedTuple

import numpy as np

from rgjax.command import find_config_file
from rgjax.config import HEAD_TRAINING, METHODS, Point, method_config
from rgjax.console import in_words
from rgjax.data.commands import (
    batch_option,
    encode_seconds,
    encoder_of,
    file_of,
    head_seconds,
    missing_weights,
    product_speed,
    width_of,
)
from rgjax.data.dataset import Source
from rgjax.data.load import display_name
from rgjax.data.splits import split
from rgjax.edges import signals
from rgjax.edges.shell import shell_line
from rgjax.errors import UserError, plural
from rgjax.storage import manifest
from rgjax.storage.files import atomic_path, digest, read_json_object, write_json

_WHOLE, _REGROUPED = ("ce", "wce", "la"), ("rg", "rg_wce")
_FOLDS = (5, 3, 2)  # from the best; 2 are for classes of few examples
_GRIDS = ((5, 3), (5, 2), (3, 2))  # folds and thresholds, from the best
_BUDGET = 90  # seconds of training that a rehearsal may take
_FIXED = 30  # seconds of the processes' start, of the first compilations and of the report
_CHOICE = ("regroup.rule", "regroup.threshold", "regroup.aggregate")
_PLAN = "plan.json"
_FILE = '''"""Heads on frozen features, as `python -m rgjax.data.inspect PLACE --rehearse` compares them."""

from rgjax.command import load_file
from rgjax.config import points

get_config = load_file({base!r}).get_config


def sweep():
    for method in {whole!r}:
        yield {{"method": method}}
    yield from points({grid!r}, methods={regrouped!r})
'''


class Subject(NamedTuple):
    """The data of a rehearsal.

    Attributes:
        name: the folder, table or file.
        kind: "images", "text" or "features".
        source: the examples without their content.
        options: the words that each command on the data needs.
        tokens: the mean length of a text as it is read; 1 for others.
        width: how many features a file of features has.
        fingerprint: of the content.
    """

    name: str
    kind: str
    source: Source
    options: Sequence[str]
    tokens: float
    width: int
    fingerprint: str

    @property
    def encoder(self) -> str:
        """The title of the network that encodes; "" for features."""
        return encoder_of(self.kind)


class Plan(NamedTuple):
    """What a rehearsal trains, and the estimated seconds of all of it."""

    folds: int
    thresholds: Sequence[int]
    seconds: float

    @property
    def runs(self) -> int:
        return _runs(self.folds, len(self.thresholds))


def rehearse(subject: Subject, output: IO[str]) -> dict[str, Any]:
    """Compare the methods on folds; a second call resumes, and repeats what it said.

    Args:
        subject: the data.
        output: where the commands print.

    Returns:
        The `workdir`, and by validation the `method`, its `settings` and the `command` that trains it, or that of the
        best method that regroups if it does not (`regrouped`); the exit `code` of a command that failed, or 0.

    Raises:
        UserError: without an encoder, if a class is too small for folds, or if regrouping would split no class.
    """
    if install := missing_weights(subject.kind):
        raise UserError(
            f"--rehearse: no network at hand to encode {subject.kind}: the Hugging Face hub is unavailable; {install}"
        )
    name = re.sub(r"[^\w.-]+", "-", display_name(subject.kind, subject.name))
    workdir = Path("runs") / f"rehearsal-{name}-{digest(subject.fingerprint, *subject.options)[:8]}"
    plan = _recorded_plan(workdir) or plan_of(subject)
    write_json(workdir / _PLAN, plan._asdict())
    words = _words(subject, int(0.8 * len(subject.source.labels) * (1 - 1 / plan.folds)))
    methods = ", ".join((*_WHOLE, *_REGROUPED))
    heads = plural(plan.runs, "head") + (f" on features of {subject.encoder}" if subject.encoder else "")
    print(
        f"\nrehearsal: {methods} on {plan.folds} folds, {heads}: {in_words(plan.seconds)}; in {workdir}\n", file=output
    )
    output.flush()  # before the commands print
    study = _write_study(workdir / f"{name}.py", subject, plan.thresholds)
    for command, *arguments in _commands(subject, plan, workdir, [f"--config={study}", *words]):
        if code := _run(command, arguments, output):
            return {"workdir": str(workdir), "code": code}
    choices, scores = choices_of(workdir)
    commands = {}
    for method, fields in choices.items():
        groups = [f"--config.{field}={value}" for field, value in fields.items()]
        commands[method] = shell_line("main", f"--config={file_of(subject.kind)}:{method}", *words, *groups)
    *regrouped, best = choices
    for method in regrouped:
        print(f"\nof the methods that regroup, validation prefers {method}:\n  {commands[method]}", file=output)
    means = ", ".join(f"{method} {100 * ba:.1f}" for method, ba in scores.items())
    print(
        f"\nvalidation chose {best} (BA by validation, %: {means}); next:\n  {commands[best]}", file=output, flush=True
    )
    return {
        "workdir": str(workdir), "code": 0, "method": best, "settings": choices[best], "command": commands[best],
        "regrouped": {method: commands[method] for method in regrouped},
    }  # fmt: skip


def _recorded_plan(workdir: Path) -> Plan | None:
    """The plan of an earlier call: the speed of the machine, which decides, varies."""
    path = workdir / _PLAN
    try:
        return Plan(**read_json_object(path)) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is corrupted ({error}); remove {workdir}") from error


def plan_of(subject: Subject) -> Plan:
    """The folds and thresholds that fit the data and the time. Raises UserError."""
    most, speed = _most_folds(subject.source), product_speed()
    width = width_of(subject.encoder) if subject.encoder else subject.width
    counts, plans = np.bincount(subject.source.labels), []
    for folds, number in ((min(folds, most), number) for folds, number in _GRIDS):
        train = 0.8 * (1 - 1 / folds) * counts
        plan = Plan(folds, thresholds_of(train, number), 0)
        plans.append(plan._replace(seconds=plan.runs * head_seconds(width, int(train.sum()), speed)))
    plan = next((plan for plan in plans if plan.seconds <= _BUDGET), plans[-1])
    encode = encode_seconds(subject.encoder, len(subject.source.labels) * subject.tokens, speed)
    return plan._replace(seconds=_FIXED + encode + plan.seconds)


def thresholds_of(train: np.ndarray, number: int) -> list[int]:
    """Sizes of groups, from that of the smallest class to half of the largest.

    Args:
        train: training examples of each class.
        number: how many thresholds, evenly spaced on a logarithmic scale.

    Raises:
        UserError: if no class has twice the examples of the smallest.
    """
    low, high = train.min(), train.max() / 2
    if high < low:
        raise UserError(
            f"--rehearse: the largest class has only {train.max() / low:.2g} times the examples of the smallest, so "
            "regrouping would split no class"
        )
    return sorted({max(1, int(size)) for size in np.geomspace(low, high, number)})


def choices_of(workdir: Path) -> tuple[dict[str, Point], dict[str, float]]:
    """What validation says of the reported runs of a rehearsal.

    Returns:
        The best method that regroups, then, last, the best of all: each with the settings of its groups that most folds
        selected. And of each method the mean balanced accuracy on the folds' validation splits, which decides.
    """
    scores, points = defaultdict(list), defaultdict(Counter)
    for path in sorted(workdir.glob("*/*/run.json")):
        result = manifest.result(path.parent)
        if result is None or json.loads(path.read_text())["stage"] != 2:
            continue
        regroup = json.loads((path.parent / "config.json").read_text())["regroup"]
        scores[result["method"]].append(result["val"]["ba"])
        points[result["method"]][tuple(regroup[field.partition(".")[2]] for field in _CHOICE)] += 1
    means = {method: fmean(scores[method]) for method in (*_WHOLE, *_REGROUPED)}
    choices: dict[str, Point] = {}
    for best in (max(_REGROUPED, key=means.__getitem__), max(means, key=means.__getitem__)):
        selected = points[best].most_common(1)[0][0]
        choices[best] = dict(zip(_CHOICE, selected, strict=True)) if METHODS[best].regroups else {}
    return choices, means


def _runs(folds: int, thresholds: int) -> int:
    return folds * (len(_WHOLE) + len(_REGROUPED) * (thresholds + 1))


def _most_folds(source: Source) -> int:
    """The most folds for which each class is large enough. Raises UserError."""
    reason = None
    for folds in _FOLDS:
        try:
            for fold in range(folds):
                split(source, method_config("ce", {"data.split": "auto", "data.folds": folds, "data.fold": fold}).data)
        except UserError as error:
            reason = error
        else:
            return folds
    raise UserError(f"--rehearse: {reason}")


def _words(subject: Subject, num_train: int) -> list[str]:
    return [f"--config.data.manual_dir={subject.name}", *subject.options, *batch_option(HEAD_TRAINING, num_train)]


def _write_study(path: Path, subject: Subject, thresholds: Sequence[int]) -> Path:
    base = os.path.abspath(find_config_file(file_of(subject.kind)))
    grid = {"regroup.rule": ("target",), "regroup.threshold": tuple(thresholds)}
    with atomic_path(path) as temporary:
        temporary.write_text(_FILE.format(base=base, whole=_WHOLE, grid=grid, regrouped=_REGROUPED), encoding="utf-8")
    return path


def _commands(subject: Subject, plan: Plan, workdir: Path, words: Sequence[str]) -> Iterator[list[str]]:
    features = workdir / "features.npz"
    if subject.encoder and not features.exists():  # on all cores; the sweep's workers read them from the cache
        yield ["encoders", *words, f"--output={features}"]
    yield ["sweep", *words, f"--workdir={workdir}", f"--folds={plan.folds}", "--keep=none"]
    yield ["report", str(workdir)]


def _run(command: str, arguments: Sequence[str], output: IO[str]) -> int:
    """Run a command of rgjax; it ends before this process does."""
    process = subprocess.Popen([sys.executable, "-m", f"rgjax.{command}", *arguments], stdout=output)
    try:
        return process.wait()
    except KeyboardInterrupt:  # Ctrl-C has reached it too
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(signals.GRACE)
        raise
    finally:
        process.terminate()
        process.wait()
