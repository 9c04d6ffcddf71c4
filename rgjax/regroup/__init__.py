"""Regrouping: split large classes into pseudo-classes, and aggregate pseudo-class logits back to the classes."""

from typing import TYPE_CHECKING

from rgjax.regroup.regrouping import AGGREGATIONS as AGGREGATIONS
from rgjax.regroup.regrouping import CLUSTERINGS as CLUSTERINGS
from rgjax.regroup.regrouping import FEATURE_CLUSTERINGS as FEATURE_CLUSTERINGS
from rgjax.regroup.regrouping import RULES as RULES
from rgjax.regroup.regrouping import Regrouping as Regrouping
from rgjax.regroup.regrouping import aggregate as aggregate
from rgjax.regroup.regrouping import cluster_counts as cluster_counts
from rgjax.regroup.regrouping import regroup as regroup

if TYPE_CHECKING:
    from rgjax.regroup.classifier import RegroupClassifier as RegroupClassifier


def __getattr__(name: str):
    """Import `RegroupClassifier` when it is asked for: scikit-learn takes seconds, and no run needs it."""
    if name == "RegroupClassifier":
        from rgjax.regroup.classifier import RegroupClassifier

        return RegroupClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
