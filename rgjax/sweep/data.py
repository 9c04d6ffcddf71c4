"""Checks the data of a sweep, and leaves out grid points of equal groups."""

import json
from dataclasses import replace

from rgjax.config import Config, identity
from rgjax.data import load_data
from rgjax.regroup import groups_to_make
from rgjax.storage.memory import keeping
from rgjax.sweep.plan import SweepPlan, Variant
from rgjax.training.inputs import resolve_images
from rgjax.training.resampling import settings_to_blame
from rgjax.training.setup import require_trainable
from rgjax.training.task import how_to_regroup

_NUMBER_OF_GROUPS = {"regroup.rule", "regroup.threshold"}


def check_data(plan: SweepPlan) -> None:
    """Load each data set once, to find errors before any job starts.

    It also fills the cache of decoded data for all runs.
    """
    for variant in {variant.study: variant for variant in plan.variants}.values():
        first = plan.reported_runs(variant, plan.seeds.selections[0], variant.grid[0])[0]
        config, _ = resolve_images(first.config, {})
        require_trainable(config, load_data(config.data))


def without_repeats(plan: SweepPlan) -> SweepPlan:
    """The plan without points that make the groups of an earlier point.

    Thresholds above the largest class, for example, all split no class. The training split of the tuning seed decides,
    or that of the first fold. The data are checked as by `check_data`.
    """
    with keeping():
        check_data(plan)
        return replace(plan, variants=tuple(_without_repeats(plan, variant) for variant in plan.variants))


def _without_repeats(plan: SweepPlan, variant: Variant) -> Variant:
    if variant.repeated or not any(_NUMBER_OF_GROUPS & point.keys() for point in variant.grid):
        return variant
    experiments = [_experiment(run.config) for run in plan.tuning_runs(variant, plan.seeds.selections[0])]
    repeated = [number for number, experiment in enumerate(experiments) if experiment in experiments[:number]]
    return replace(variant, repeated=tuple(repeated))


def _experiment(config: Config) -> str:
    """The identity of a run, with the numbers of groups for the rule and threshold."""
    config, _ = resolve_images(config, {})
    dataset = load_data(config.data)
    how = how_to_regroup(config, dataset)
    with settings_to_blame():
        groups = groups_to_make(dataset.labels[dataset.train], len(dataset.class_names), **how)
    settings = {name: value for name, value in identity(config).items() if name not in _NUMBER_OF_GROUPS}
    return json.dumps([settings, groups.tolist()])
