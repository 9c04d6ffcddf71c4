"""A config file with grids, and sweep plans made from it."""

from rgjax.sweep.plan import Seeds, SweepPlan, read_variants

SEEDS = Seeds(tuning=1000, reported=range(3), fixed_split=False)
(ALL_SEEDS,) = SEEDS.selections

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


def plan_of(file, root, overrides=None, **options):
    variants = read_variants(file, overrides or {}, **({"common": {}, "quick": False} | options))
    return SweepPlan(root, tuple(variants), overrides or {}, SEEDS, "ba")


def variant_of(plan, label):
    return next(variant for variant in plan.variants if variant.label == label)
