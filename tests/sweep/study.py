"""A config file with grids, for tests of its sweep."""

from rgjax.sweep.plan import Plan, Seeds, read_groups

SEEDS = Seeds(tuning=1000, reported=range(3), fixed_split=False)

FILE = """
from rgjax.config import method_config


def get_config(method="rg"):
    return method_config(method, {"train.epochs": 3})


def sweep():
    yield {"method": "ce"}
    for gamma in (0.5, 1.0, 1.5, 2.0):
        yield {"method": "focal", "loss.gamma": gamma}
    for threshold in (100, 200):
        yield {"method": "rg", "regroup.threshold": threshold}
        yield {"method": "rg", "variant": "random groups", "regroup.threshold": threshold}
"""


def plan_of(file, root, given=None, **options):
    groups = read_groups(file, given or {}, **({"common": {}, "quick": False} | options))
    return Plan(root, tuple(groups), given or {}, SEEDS, "ba")


def group_of(plan, label):
    return next(group for group in plan.groups if group.label == label)
