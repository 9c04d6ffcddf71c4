"""Tune every method by a grid search; train its best setting on several seeds.

    python -m rgjax.sweep --config=configs/FILE.py --workdir=DIR [--config.NAME=VALUE ...]

`sweep()` in the config file defines the grids. Stage 1 trains each point of a method's grid once, and the validation
score selects one; stage 2 trains it on every reported seed. The same command resumes an interrupted sweep, tries failed
runs again, and does nothing once all runs are done; more seeds and methods may be added later.
`python -m rgjax.report DIR` shows the results at any time.

Options:

    --workdir=DIR              folder of the sweep
    --methods=NAME,...         only these methods and their variants
    --seeds=N                  number of reported seeds, from config.seed on (5)
    --fixed-split              one split of the data for all seeds; by default each seed has its own
    --folds=K                  cross-validation instead of --seeds: every method is tuned and tested in each of K folds
    --repeats=N                with --folds: how often folds are drawn, by the seeds from config.seed on (1)
    --tuning-seed=N            seed of stage 1 (1000)
    --select=ba|macro_ap       validation score that selects (ba)
    --lr=X,...                 learning rates to search with every method, crossed with its grid
    --weight-decay=X,...       weight decays, likewise
    --quick                    search only two points of each grid
    --dry-run                  only print the number of runs, device hours (measured by short runs) and disk space
    --launcher=local|ray|slurm where runs are trained (local)
    --workers=N                runs at a time (local: one per device or CPU core; slurm: limit of a job array)
    --resources=NAME=VALUE,... of each run: for ray num_gpus=1 or TPU=4; for slurm submitit's parameters, such as
                               slurm_partition=gpu,gpus_per_node=1,timeout_min=240, or cluster=local
    --population=N             train up to N runs that differ only in traced settings as one program (heads on
                               features: 16, also of different seeds and groups; other networks: 1)
    --retries=N                how often a failed run is tried again (1)
    --accept-failures          select although some runs of a grid failed for reasons that may pass
    --keep=all|reported|none   runs whose checkpoints stay on disk; reported: those of stage 2 (reported)
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, stdev
from types import ModuleType
from typing import Any

from absl import flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from rgjax import command
from rgjax import config as settings
from rgjax.console import local_path, table
from rgjax.edges.shell import shell_line
from rgjax.errors import UserError
from rgjax.sweep.cost import cost_table
from rgjax.sweep.launchers import LAUNCHERS, Launcher, local_slots, parse_resources
from rgjax.sweep.plan import SELECTIONS, RunSpec, Seeds, SweepPlan, of_methods, read_variants
from rgjax.sweep.scheduler import Outcome, Scheduler, SchedulerOptions, SweepState, VariantRuns, with_recorded_repeats

_WORKDIR = flags.DEFINE_string("workdir", "", "folder of the sweep")
_METHODS = flags.DEFINE_list("methods", [], "only these methods")
_SEEDS = flags.DEFINE_integer("seeds", 5, "number of reported seeds", lower_bound=1)
_FIXED_SPLIT = flags.DEFINE_bool("fixed_split", False, "one split for all seeds")
_FOLDS = flags.DEFINE_integer("folds", None, "folds of a cross-validation", lower_bound=2)
_REPEATS = flags.DEFINE_integer("repeats", 1, "how often folds are drawn", lower_bound=1)
_TUNING_SEED = flags.DEFINE_integer("tuning_seed", 1000, "seed of stage 1", lower_bound=0)
_SELECT = flags.DEFINE_enum("select", "ba", list(SELECTIONS), "validation score that selects")
_LR = flags.DEFINE_list("lr", [], "learning rates")
_WEIGHT_DECAY = flags.DEFINE_list("weight_decay", [], "weight decays")
_QUICK = flags.DEFINE_bool("quick", False, "two points of each grid")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the cost and stop")
_LAUNCHER = flags.DEFINE_enum("launcher", "local", list(LAUNCHERS), "where runs are trained")
_WORKERS = flags.DEFINE_integer("workers", None, "runs at a time", lower_bound=1)
_RESOURCES = flags.DEFINE_list("resources", [], "of each run")
_POPULATION = flags.DEFINE_integer("population", None, "runs trained as one program", lower_bound=1)
_RETRIES = flags.DEFINE_integer("retries", 1, "how often a failed run is tried again", lower_bound=0)
_ACCEPT_FAILURES = flags.DEFINE_bool("accept_failures", False, "select without failed runs")
_KEEP = flags.DEFINE_enum("keep", "reported", ["all", "reported", "none"], "whose checkpoints stay")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    plan, request = make_plan()
    resources = parse_resources(_RESOURCES.value)
    resumed = with_recorded_repeats(plan)
    # A dry run goes on: its table says what is wrong with the data.
    with contextlib.suppress(UserError) if _DRY_RUN.value else contextlib.nullcontext():
        plan = resumed or data_of_sweep().without_repeats(plan)
    print(plan_table(plan))
    if _DRY_RUN.value:
        check_platform()
        print(f"\n{cost_table(plan.all_runs(), keeps_checkpoints, local_slots(_WORKERS.value))}")
        return

    def make_launcher() -> Launcher:
        if _LAUNCHER.value == "local":
            check_platform()
        if resumed:
            data_of_sweep().check_data(plan)
        return LAUNCHERS[_LAUNCHER.value](plan.root, _WORKERS.value, resources)

    state = SweepState(plan, request, command=shell_line("sweep", *sys.argv[1:]))
    options = SchedulerOptions(_RETRIES.value, _POPULATION.value, _ACCEPT_FAILURES.value, keeps_checkpoints)
    interval = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(desc="sweep", total=plan.total, unit="run", mininterval=interval, maxinterval=interval) as bar:
        outcome = Scheduler(plan, state, options, bar).run(make_launcher)
    print(f"\n{results_table(outcome.variants)}")
    report = shell_line("report", str(plan.root))
    print(f"\n{outcome.done} of {plan.total} runs done; show them by: {report}")
    if outcome.failed:
        print_failures(outcome)
        sys.exit(1)


def data_of_sweep() -> ModuleType:
    """`rgjax.sweep.data`. It loads JAX, which a finished sweep need not wait for."""
    from rgjax.sweep import data

    return data


def print_failures(outcome: Outcome) -> None:
    for workdir, error in outcome.failed.items():
        print(f"failed: {workdir}: {error} (see log.txt)", file=sys.stderr)
    if outcome.undecided:
        print(f"no setting selected yet for {', '.join(outcome.undecided)}", file=sys.stderr)
    print("rerun the same command to try them again", file=sys.stderr)


def keeps_checkpoints(run: RunSpec) -> bool:
    """Whether the checkpoints of a finished run stay on disk."""
    return _KEEP.value == "all" or (_KEEP.value == "reported" and run.stage == 2)


def make_plan() -> tuple[SweepPlan, dict]:
    """The plan of the command line, and the flags that later calls must repeat."""
    file, _, method = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    if method:
        raise UserError(f"--config={file}:{method}: a sweep has several methods; use --methods={method}")
    if not _WORKDIR.value:
        raise UserError("--workdir=DIR is missing: the folder of the sweep")
    overrides = dict(config_flags.get_override_values(flags.FLAGS["config"]))
    refuse_overrides(overrides)

    seeds = make_seeds(first=overrides.pop("seed", 0))

    # Grids: those of the config file, crossed with the values searched in all methods.
    searched = {
        "train.lr": numbers("--lr", _LR.value),
        "train.weight_decay": numbers("--weight-decay", _WEIGHT_DECAY.value),
    }
    common = {name: values for name, values in searched.items() if values}
    variants = of_methods(read_variants(file, overrides, common=common, quick=_QUICK.value), _METHODS.value)

    plan = SweepPlan(local_path(_WORKDIR.value), tuple(variants), overrides, seeds, _SELECT.value)
    request = {
        **{f"--config.{name}": value for name, value in overrides.items() if name not in settings.NON_IDENTITY_FIELDS},
        "--lr": common.get("train.lr"),
        "--weight-decay": common.get("train.weight_decay"),
        "--quick": _QUICK.value,
        "--select": _SELECT.value,
        "--tuning-seed": seeds.tuning,
        "--fixed-split": seeds.fixed_split,
        "--folds": seeds.folds,
    }
    return plan, request


def make_seeds(first: int) -> Seeds:
    """The seeds of the command line; `first` is config.seed, the first reported one.

    Raises UserError for flags that contradict each other.
    """
    count, folds = _SEEDS.value, _FOLDS.value
    if folds is None:
        if flags.FLAGS["repeats"].present:
            raise UserError(f"--repeats={_REPEATS.value}: how often folds are drawn; add --folds=5, or use --seeds")
    else:
        if flags.FLAGS["seeds"].present:
            raise UserError(f"--seeds={count}: with --folds, --repeats sets how often the folds are drawn; use that")
        if _FIXED_SPLIT.value:
            raise UserError("--fixed-split: folds are splits, drawn anew in each repeat; leave one of the two out")
        count = _REPEATS.value
    seeds = Seeds(_TUNING_SEED.value, range(first, first + count), _FIXED_SPLIT.value, folds)
    if seeds.tuning in seeds.reported:
        raise UserError(f"--tuning-seed={seeds.tuning}: also a reported seed; choose another")
    return seeds


def refuse_overrides(overrides: dict[str, Any]) -> None:
    """Raise UserError for a field that a flag of the sweep sets."""
    refused = {
        "population": "use --population",
        "method": "use --methods",
        "train.lr": "--lr searches it; give one of the two" if _LR.value else "",
        "train.weight_decay": "--weight-decay searches it; give one of the two" if _WEIGHT_DECAY.value else "",
        "data.seed": "" if _FIXED_SPLIT.value else "each seed has its own split; add --fixed-split for a common one",
        "data.folds": "use --folds",
        "data.fold": "a sweep trains all folds; use --folds",
        "data.test_fraction": "--folds sets it; give one of the two" if _FOLDS.value else "",
    }
    for name, reason in refused.items():
        if reason and name in overrides:
            raise UserError(f"--config.{name}={overrides[name]}: {reason}")


def numbers(flag: str, words: Sequence[str]) -> list[float]:
    """The numbers of a list flag. Raises UserError for a word that is none."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UserError(f"{flag}={','.join(words)}: not numbers; write e.g. {flag}=0.003,0.01") from error


def check_platform() -> None:
    """Raise UserError if the workers of this machine would not get JAX_PLATFORMS."""
    if os.environ.get("JAX_PLATFORMS", "") in ("", "cpu"):
        return
    # In a process of its own, because this one would claim the devices of its workers.
    code = "from rgjax.sharding import require_devices; require_devices()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, errors="replace")
    if process.returncode:
        raise UserError(process.stderr.strip().rpartition("\n")[2].rpartition("UserError: ")[2])


def plan_table(plan: SweepPlan) -> str:
    """The number of grid points and runs of each variant."""
    rows: list[Sequence[Any]] = [("study", "method", "grid", "folds" if plan.seeds.folds else "seeds", "runs")]
    for variant in plan.variants:
        (tuning, reported), points = plan.count(variant), len(variant.searched)
        rows.append((variant.study, variant.label, points if tuning else "-", reported, tuning + reported))
    rows.append(("total", "", "", "", plan.total))
    return table(rows, "<<>>>", indent="")


def results_table(variants: Sequence[VariantRuns]) -> str:
    """The test scores and the selected points of each variant."""
    rows: list[Sequence[Any]] = [("study", "method", "n", "test BA %", "macro AP %", "selected")]
    for variant, folds in groupby(variants, key=lambda runs: runs.variant):
        folds = list(folds)
        tests = [result["test"] for runs in folds for result in (run.result for run in runs.reported) if result]
        scores = (mean_and_spread([test[name] for test in tests]) for name in ("ba", "macro_ap"))
        rows.append((variant.study, variant.label, len(tests), *scores, selected_points(folds)))
    return table(rows, "<<>>><", indent="")


def selected_points(folds: Sequence[VariantRuns]) -> str:
    """The selected point, or the points with the number of folds that selected them."""
    points = Counter(
        ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in runs.point.items())
        for runs in folds
        if runs.point is not None
    )
    if len(points) < 2:
        return "".join(points)
    return "; ".join(f"{point} ({count}x)" for point, count in points.most_common())


def mean_and_spread(values: list[float]) -> str:
    """Mean ± sample standard deviation, in percent."""
    if not values:
        return "-"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def cli() -> None:
    command.run_with_config(main, __doc__, interrupted="; rerun the same command to resume")


if __name__ == "__main__":
    cli()
