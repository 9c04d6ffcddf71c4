"""Regrouping of classes into pseudo-classes, and aggregation of their logits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rgjax.regroup.aggregation import AGGREGATIONS as AGGREGATIONS
from rgjax.regroup.aggregation import aggregate as aggregate

if TYPE_CHECKING:
    from rgjax.regroup.classifier import RegroupClassifier as RegroupClassifier
    from rgjax.regroup.regrouping import CLUSTERINGS as CLUSTERINGS
    from rgjax.regroup.regrouping import FEATURE_CLUSTERINGS as FEATURE_CLUSTERINGS
    from rgjax.regroup.regrouping import RULES as RULES
    from rgjax.regroup.regrouping import Regrouping as Regrouping
    from rgjax.regroup.regrouping import RegroupSettings as RegroupSettings
    from rgjax.regroup.regrouping import cluster_counts as cluster_counts
    from rgjax.regroup.regrouping import groups_to_make as groups_to_make
    from rgjax.regroup.regrouping import least_size as least_size
    from rgjax.regroup.regrouping import needs_features as needs_features
    from rgjax.regroup.regrouping import regroup as regroup

# Imported on first use: a report aggregates without JAX, and a run needs no scikit-learn. Both take a second or more.
_MODULES = {
    "RegroupClassifier": "classifier",
    **dict.fromkeys(
        (
            *("CLUSTERINGS", "FEATURE_CLUSTERINGS", "RULES", "RegroupSettings", "Regrouping"),
            *("cluster_counts", "groups_to_make", "least_size", "needs_features", "regroup"),
        ),
        "regrouping",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"rgjax.regroup.{_MODULES[name]}"), name)
