"""Tune every method by a grid search, and train the chosen settings on several seeds.

    python -m rgjax.sweep --config=configs/FILE.py [--methods=ce,rg] [--seeds=5] [--config.NAME=VALUE ...] --workdir=DIR

The grids are those of `sweep()` in the config file. Stage 1 trains each point of a method's grid once, on a seed of its
own, and validation chooses; stage 2 trains the chosen setting on the reported seeds. The same command goes on with an
interrupted sweep, tries failed runs again, and does nothing where all is done; seeds and methods may be added later.
`python -m rgjax.report DIR` shows what is there at any time.

  --methods=NAME,...     these methods alone, and their variants
  --seeds=N              number of reported seeds, from config.seed on (5)
  --fixed-split          seeds differ in training alone; else each has a split of its own
  --tuning-seed=N        the seed of stage 1 (1000)
  --select=ba|macro_ap   what validation chooses by (ba)
  --lr=X,...             learning rates and weight decays to search in all methods alike, crossed with their own grids
  --weight-decay=X,...
  --quick                two points of each grid
  --dry-run              tell the number of runs, the device hours (by a short measured run) and the disk space
  --launcher=local|ray|slurm
  --workers=N            runs at a time (local: one a device; slurm: the array's limit)
  --resources=K=V,...    of each run: for ray num_gpus=1, TPU=4; for slurm what submitit takes, slurm_partition=gpu,
                         gpus_per_node=1, timeout_min=240, or cluster=local
  --population=N         up to N runs that differ in traced settings alone train as one program (1)
  --retries=N            how often a failed run is tried again (1)
  --accept-failures      choose among the settings that have a result, though others failed for reasons that may pass
  --keep=all|reported|none   whose checkpoints stay (reported: those of stage 2)
"""

import shlex
import sys
from statistics import fmean, stdev

from absl import flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from rgjax import command
from rgjax import config as settings
from rgjax.console import local_path
from rgjax.errors import UserError, unknown
from rgjax.sweep.cost import readable_cost
from rgjax.sweep.launchers import LAUNCHERS, Launcher, local_places, numbers
from rgjax.sweep.plan import SELECTIONS, Plan, Run, Seeds, read_groups
from rgjax.sweep.scheduler import Course, Record

_WORKDIR = flags.DEFINE_string("workdir", "", "where the sweep is kept")
_METHODS = flags.DEFINE_list("methods", [], "methods")
_SEEDS = flags.DEFINE_integer("seeds", 5, "reported seeds", lower_bound=1)
_FIXED_SPLIT = flags.DEFINE_bool("fixed_split", False, "one split for all seeds")
_TUNING_SEED = flags.DEFINE_integer("tuning_seed", 1000, "seed of stage 1", lower_bound=0)
_SELECT = flags.DEFINE_enum("select", "ba", list(SELECTIONS), "what validation chooses by")
_LR = flags.DEFINE_list("lr", [], "learning rates")
_WEIGHT_DECAY = flags.DEFINE_list("weight_decay", [], "weight decays")
_QUICK = flags.DEFINE_bool("quick", False, "two points of each grid")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "tell the cost and run nothing")
_LAUNCHER = flags.DEFINE_enum("launcher", "local", list(LAUNCHERS), "where runs are trained")
_WORKERS = flags.DEFINE_integer("workers", None, "runs at a time", lower_bound=1)
_RESOURCES = flags.DEFINE_list("resources", [], "of each run")
_POPULATION = flags.DEFINE_integer("population", 1, "runs trained as one program", lower_bound=1)
_RETRIES = flags.DEFINE_integer("retries", 1, "how often a failed run is tried again", lower_bound=0)
_ACCEPT_FAILURES = flags.DEFINE_bool("accept_failures", False, "choose without the settings that failed")
_KEEP = flags.DEFINE_enum("keep", "reported", ["all", "reported", "none"], "whose checkpoints stay")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    plan, asked = make_plan()
    total = sum(sum(plan.count(group)) for group in plan.groups)
    resources = numbers(_RESOURCES.value)
    print(readable_plan(plan))
    if _DRY_RUN.value:
        runs = plan.all_runs()
        places = local_places(_WORKERS.value)
        print(readable_cost(runs, [keeps(run) for run in runs], places))
        return
    record = Record(plan, asked, command=shlex.join(["uv", "run", "python", "-m", "rgjax.sweep", *sys.argv[1:]]))

    def begin() -> Launcher:
        check_data(plan)
        return LAUNCHERS[_LAUNCHER.value](plan.root, _WORKERS.value, resources)

    pause = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(desc="sweep", total=total, unit="run", mininterval=pause, maxinterval=pause) as bar:
        course = Course(
            plan,
            record,
            retries=_RETRIES.value,
            population=_POPULATION.value,
            keep=keeps,
            accept_failures=_ACCEPT_FAILURES.value,
            bar=bar,
        )
        outcome = course.carry_out(begin)
    print(readable(plan, record))
    print(f"\n{outcome.done} of {total} runs done; to see them: uv run python -m rgjax.report {plan.root}")
    if outcome.failed:
        for workdir, error in outcome.failed.items():
            print(f"failed: {workdir}: {error} (log.txt has more)", file=sys.stderr)
        if outcome.undecided:
            print(f"nothing is chosen yet for {', '.join(outcome.undecided)}", file=sys.stderr)
        print("the same command tries them again", file=sys.stderr)
        sys.exit(1)


def keeps(run: Run) -> bool:
    """Whether the run's checkpoint stays when it has ended."""
    return _KEEP.value == "all" or (_KEEP.value == "reported" and run.stage == 2)


def make_plan() -> tuple[Plan, dict]:
    """The plan that the command line asks for, and what of it must not change from one call to the next."""
    file, _, method = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    if method:
        raise UserError(f"--config={file}:{method}: a sweep takes --methods={method} instead")
    if not _WORKDIR.value:
        raise UserError("--workdir=DIR is missing: where the sweep is kept")
    given = dict(config_flags.get_override_values(flags.FLAGS["config"]))
    refused = {
        "population": "a sweep takes --population",
        "method": "a sweep takes --methods",
        "train.lr": "it is searched by --lr" if _LR.value else "",
        "train.weight_decay": "it is searched by --weight-decay" if _WEIGHT_DECAY.value else "",
        "data.seed": "" if _FIXED_SPLIT.value else "each seed has a split of its own, unless by --fixed-split",
    }
    for name, reason in refused.items():
        if reason and name in given:
            raise UserError(f"--config.{name}={given[name]}: {reason}")
    seed = given.pop("seed", 0)
    seeds = Seeds(_TUNING_SEED.value, range(seed, seed + _SEEDS.value), _FIXED_SPLIT.value)
    if seeds.tuning in seeds.reported:
        raise UserError(f"--tuning-seed={seeds.tuning} is among the reported seeds: choose another")
    common = {
        f"train.{name}": [real(f"--{name.replace('_', '-')}", word) for word in flag.value]
        for name, flag in (("lr", _LR), ("weight_decay", _WEIGHT_DECAY))
        if flag.value
    }
    groups = read_groups(file, given, common=common, quick=_QUICK.value)
    known = [group.method for group in groups]
    for name in _METHODS.value:
        if name not in known:
            raise unknown("method", name, dict.fromkeys(known))
    groups = [group for group in groups if not _METHODS.value or group.method in _METHODS.value]
    plan = Plan(local_path(_WORKDIR.value), tuple(groups), given, seeds, _SELECT.value)
    asked = {
        **{f"--config.{name}": value for name, value in given.items() if name not in settings.NON_IDENTITY_FIELDS},
        "--lr": common.get("train.lr"),
        "--weight-decay": common.get("train.weight_decay"),
        "--quick": _QUICK.value,
        "--select": _SELECT.value,
        "--tuning-seed": seeds.tuning,
        "--fixed-split": seeds.fixed_split,
    }
    return plan, asked


def real(flag: str, word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise UserError(f"{flag}={word}: give numbers, e.g. {flag}=0.003,0.01") from error


def check_data(plan: Plan) -> None:
    """Load each data set once: what is wrong with it is told now, and its decoded form is there for all runs."""
    from rgjax.data import load_data  # imported here: a sweep that is done should say so at once
    from rgjax.training.setup import require_trainable

    for run in {group.study: plan.reported_runs(group, group.grid[0])[0] for group in plan.groups}.values():
        require_trainable(run.config, load_data(run.config.data))


def readable_plan(plan: Plan) -> str:
    """The groups of a plan and their runs as a table for people."""
    lines = [f"{'study':<20}{'method':<28}{'grid':>6}{'seeds':>7}{'runs':>6}"]
    for group in plan.groups:
        tuning, reported = plan.count(group)
        lines.append(f"{group.study:<20}{group.label:<28}{tuning or '-':>6}{reported:>7}{tuning + reported:>6}")
    lines.append(f"{'in all':<54}{'':>7}{sum(sum(plan.count(group)) for group in plan.groups):>6}")
    return "\n".join(lines)


def readable(plan: Plan, record: Record) -> str:
    """What was chosen, and what came of it, as a table for people."""
    lines = [f"\n{'study':<20}{'method':<28}{'n':>3}{'test BA %':>14}{'macro AP %':>14}   chosen"]
    for group in plan.groups:
        point = record.chosen(group)
        results = [run.result for run in plan.reported_runs(group, point)] if point is not None else []
        tests = [result["test"] for result in results if result]
        ba, macro_ap = (mean_and_spread([test[name] for test in tests]) for name in ("ba", "macro_ap"))
        chosen = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in (point or {}).items())
        lines.append(f"{group.study:<20}{group.label:<28}{len(tests):>3}{ba:>14}{macro_ap:>14}   {chosen}".rstrip())
    return "\n".join(lines)


def mean_and_spread(values: list[float]) -> str:
    """Mean ± sample standard deviation, in percent."""
    if not values:
        return "-"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def cli() -> None:
    command.run(main, __doc__ or "", interrupted="; the same command goes on")


if __name__ == "__main__":
    cli()
