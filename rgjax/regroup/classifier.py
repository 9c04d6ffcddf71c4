"""Regrouping around any scikit-learn classifier."""

import logging
from collections.abc import Callable
from datetime import date
from functools import wraps
from inspect import signature
from types import MethodType
from typing import Any

import numpy as np
from scipy.sparse import issparse
from scipy.special import softmax
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.utils import (
    _safe_indexing,
    check_array,
    check_consistent_length,
    check_random_state,
    column_or_1d,
    get_tags,
)
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_method_params, _check_sample_weight, assert_all_finite, check_is_fitted

from rgjax.errors import first_few
from rgjax.regroup.aggregation import AGGREGATIONS
from rgjax.regroup.inner import Groups, limits, weight_parameter
from rgjax.regroup.regrouping import (
    FEATURE_CLUSTERINGS,
    Regrouping,
    RegroupSettings,
    cluster_counts,
    least_size,
    regroup,
)

_log = logging.getLogger("rgjax")


def _inner_has(*methods: str):
    """A check whether the inner classifier, fitted or not, has one of the methods."""

    def check(self) -> bool:
        inner = getattr(self, "estimator_", None) or self._inner()
        return any(hasattr(inner, method) for method in methods)

    return check


def _not_numbers(X) -> list[str]:
    """The columns that hold text, categories or dates."""
    names = getattr(X, "column_names", getattr(X, "columns", ()))
    categories = [str(name) for name, kind in zip(names, getattr(X, "dtypes", ()), strict=False) if kind == "category"]
    values = np.asarray(X)
    if values.dtype.kind not in "OSUM" or values.ndim > 2:
        return categories
    columns = values[:, None].T if values.ndim == 1 else values.T
    names = [str(name) for name in names] if len(names) == len(columns) else [str(j) for j in range(len(columns))]
    text = [name for name, column in zip(names, columns, strict=True) if any(map(_is_text, column))]
    return [name for name in names if name in categories or name in text]


def _is_text(value: Any) -> bool:
    """Whether a value is a date, or a string that is no number."""
    try:
        return isinstance(value, date | np.datetime64) or (isinstance(value, str | bytes) and float(value) is None)
    except ValueError:
        return True


def _weighted(X, y, features, weights, fit_params) -> tuple:
    """The samples of a weight other than 0, with all that belongs to them."""
    keep = np.flatnonzero(weights)
    if len(keep) == len(weights):
        return X, y, features, weights, fit_params
    if not len(keep):
        raise ValueError("sample_weight: all weights are 0; at least one sample needs another weight")
    features = None if features is None else _safe_indexing(features, keep)
    return _safe_indexing(X, keep), y[keep], features, weights[keep], _check_method_params(X, fit_params, keep)


class _Fit:
    """`fit`, with `sample_weight` in its signature if the inner `fit` takes it.

    Meta-estimators read the signature: AdaBoost refuses an estimator without weights, Bagging repeats samples instead.
    """

    def __init__(self, function: Callable):
        self.function = function

    def __get__(self, model, owner=None):
        if model is None:
            return self.function
        if weight_parameter(model._inner()):
            return MethodType(self.function, model)

        @wraps(self.function)
        def fit(*args, **kwargs):
            return self.function(model, *args, **kwargs)

        whole = signature(MethodType(self.function, model))
        parameters = [value for name, value in whole.parameters.items() if name != "sample_weight"]
        fit.__signature__ = whole.replace(parameters=parameters)  # type: ignore[attr-defined]
        return fit


class RegroupClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Fits a classifier to pseudo-classes of the large classes, and predicts classes.

    K-means is sensitive to the scales of the features: put a `StandardScaler` before it. If the inner classifier
    accepts missing values, K-means replaces them by the mean of their column. Text and categories go to the inner
    classifier alone; give K-means numbers as `features` of `fit`.

    Parameters
    ----------
    estimator : a multi-class classifier; None: `LogisticRegression(max_iter=1000)`. It is trained on the pseudo-classes
        0 to `n_pseudo_classes_` - 1. Its parameters may speak of your classes, also inside pipelines and grids: each
        group gets the `class_weight` of its class, and a share of its prior. Those that have no meaning for groups
        raise an error. `class_weight="balanced"` balances the pseudo-classes.
    rule, threshold : the number of pseudo-classes. "ratio": n_c / n_min for classes of more than `threshold` samples;
        "target": n_c / max(threshold, n_min). Rounded half up. The smallest class is never split.
    clustering : "kmeans", "balanced" (K-means with clusters of equal size), "spectral" (normalized cut), "random" (the
        ablation) or "none".
    aggregate : "max": the most probable pseudo-class of each class, renormalized over the classes. "sum": the sum of
        the probabilities of its pseudo-classes. "max" moves decisions towards small classes. The logits for
        `rgjax.regroup.aggregate` are the logarithms of the inner `predict_proba`; without one, the values of the inner
        `decision_function`, for which "sum" is not defined.
    n_init : restarts of K-means.
    min_group_size : samples of a group, at least. A class of n_c samples has at most n_c / `min_group_size` groups;
        smaller ones are merged into the nearest of their class. It is higher where the inner classifier's early
        stopping or calibration needs more. None: half of the smallest class, at least 8.
    max_groups : groups of a class, at most. Time and memory are in proportion to it.
    random_state : of the clustering; the inner classifier has its own.

    Attributes
    ----------
    classes_ : the classes.
    estimator_ : the fitted inner classifier.
    regrouping_ : the `Regrouping`; its class numbers are indices into `classes_`.
    n_pseudo_classes_ : their number.
    n_features_in_, feature_names_in_ : if the inner classifier has them.

    Example: `make_pipeline(StandardScaler(), RegroupClassifier(random_state=0)).fit(X, y).predict_proba(X)`.
    """

    def __init__(
        self,
        estimator=None,
        *,
        rule="ratio",
        threshold=0,
        clustering="kmeans",
        aggregate="max",
        n_init=10,
        min_group_size=None,
        max_groups=200,
        random_state=None,
    ):
        self.estimator = estimator
        self.rule = rule
        self.threshold = threshold
        self.clustering = clustering
        self.aggregate = aggregate
        self.n_init = n_init
        self.min_group_size = min_group_size
        self.max_groups = max_groups
        self.random_state = random_state

    @_Fit
    def fit(self, X, y, features=None, sample_weight=None, **fit_params):
        """Cluster the samples, and fit the inner classifier to the pseudo-classes.

        Args:
            X: samples [N, ...], passed to the inner classifier.
            y: classes [N].
            features: for the clustering, [N, D]; None: `X`.
            sample_weight: [N], passed to the inner classifier. Samples of weight 0 are left out; other weights do not
                change the groups.
            **fit_params: for the inner `fit`, by metadata routing if that is enabled.

        Raises:
            ValueError: for features that K-means cannot use, and for invalid settings.
            TypeError: for a sparse `X` without `features`, and for weights that the inner classifier does not take.
        """
        inner = self._checked_inner(sample_weight)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        check_consistent_length(X, y, features)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
            X, y, features, sample_weight, fit_params = _weighted(X, y, features, sample_weight, fit_params)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.regrouping_ = self._regroup(inner, X, labels, features)
        self.n_pseudo_classes_ = self.regrouping_.num_pseudo_classes
        groups = Groups.of(self.classes_, self.regrouping_)
        groups.set_params(inner)
        routed = self._routed(inner, features, sample_weight, fit_params)
        self.estimator_ = inner.fit(X, self.regrouping_.pseudo_labels, **groups.fit_params(routed))
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict(self, X) -> np.ndarray:
        """The most probable classes [N]."""
        check_is_fitted(self)
        if _inner_has("predict_proba", "decision_function")(self):
            return self.classes_[self._class_scores(X).argmax(axis=1)]
        return self.classes_[self.regrouping_.parent[self.estimator_.predict(X)]]

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X) -> np.ndarray:
        """Class probabilities [N, C]."""
        return softmax(self._class_scores(X), axis=1)

    @available_if(_inner_has("predict_proba", "decision_function"))
    def decision_function(self, X) -> np.ndarray:
        """Class scores [N, C]; for two classes their difference [N].

        It is the second minus the first: the log-odds, if the inner classifier has probabilities.
        """
        scores = self._class_scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def get_metadata_routing(self) -> MetadataRouter:
        """Requests `features`, and routes what the inner classifier requests.

        `sample_weight` is requested if the inner classifier or `set_fit_request` says so.
        """
        request = super().get_metadata_routing()
        if request.fit.requests.get("sample_weight") is None:
            request.fit.requests.pop("sample_weight", None)
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add_self_request(request).add(estimator=self._inner(), method_mapping=mapping)

    def __sklearn_tags__(self):
        tags, inner = super().__sklearn_tags__(), get_tags(self._inner())
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        if inner.classifier_tags is not None:
            tags.classifier_tags = inner.classifier_tags
            tags.classifier_tags.multi_label = False
        tags.input_tags.sparse = tags.input_tags.sparse and self.clustering not in FEATURE_CLUSTERINGS
        return tags

    def _inner(self) -> Any:
        return LogisticRegression(max_iter=1000) if self.estimator is None else clone(self.estimator)

    def _checked_inner(self, sample_weight) -> Any:
        inner = self._inner()
        if self.aggregate not in AGGREGATIONS:
            raise ValueError(f"aggregate={self.aggregate!r}: unknown; valid: {', '.join(AGGREGATIONS)}")
        if self.aggregate == "sum" and not hasattr(inner, "predict_proba"):
            raise ValueError(f"aggregate='sum': {inner!r} has no predict_proba; use aggregate='max'")
        if sample_weight is not None and not weight_parameter(inner):
            name = " ".join(repr(inner).split())
            raise TypeError(f"sample_weight: {name} takes no weights; use another inner classifier, or no weights")
        return inner

    def _routed(self, inner, features, sample_weight, fit_params) -> dict[str, Any]:
        """The parameters for the inner `fit`."""
        if get_config()["enable_metadata_routing"]:
            given = {"features": features, "sample_weight": sample_weight}
            requested = {name: value for name, value in given.items() if value is not None}
            return process_routing(self, "fit", **requested, **fit_params).estimator.fit
        weights = {} if sample_weight is None else {weight_parameter(inner): sample_weight}
        return fit_params | weights

    def _regroup(self, inner, X, labels, features) -> Regrouping:
        counts = np.bincount(labels)
        least, most = limits(inner, len(labels), len(counts))
        floor = least_size(self.min_group_size, int(counts.min()))
        settings = RegroupSettings(
            rule=self.rule,
            threshold=self.threshold,
            clustering=self.clustering,
            seed=check_random_state(self.random_state).randint(2**31),
            n_init=self.n_init,
            min_size=least if 0 <= floor < least else self.min_group_size,
            max_groups=min(self.max_groups, most or self.max_groups),
        )
        given = self._features(X, features) if self.clustering in FEATURE_CLUSTERINGS else None
        regrouping = regroup(given, labels, len(counts), **vars(settings))
        asked = cluster_counts(counts, self.rule, self.threshold, max_groups=len(labels))
        if self.clustering != "none" and regrouping.num_pseudo_classes < asked.sum():
            cut = (asked > settings.max_groups) & (settings.cluster_counts(counts) == settings.max_groups)
            _log.log(
                logging.WARNING if cut.any() else logging.INFO,
                "rule=%r asks for %d groups, %d are made: with at least %d samples (min_group_size; %d smaller ones "
                "were merged), at most %d of a class (max_groups)",
                *(self.rule, asked.sum(), regrouping.num_pseudo_classes),
                *(least_size(settings.min_size, int(counts.min())), regrouping.merged, settings.max_groups),
            )
        return regrouping

    def _features(self, X, features):
        if features is not None:
            return check_array(features, dtype="float32", input_name="features", estimator=self)
        if issparse(X):
            raise TypeError(
                "Sparse X: K-means needs dense features; use fit(X, y, features=...) with those of a TruncatedSVD, "
                "or clustering='random'"
            )
        if names := _not_numbers(X):
            raise ValueError(
                f"X: K-means needs numbers, and these columns hold text or categories: {first_few(names)}; use "
                "fit(X, y, features=...) with numbers for each sample, or clustering='random'"
            )
        missing: Any = "allow-nan" if get_tags(self).input_tags.allow_nan else True
        values = check_array(X, dtype="float32", ensure_all_finite=missing, input_name="X", estimator=self)
        return SimpleImputer(keep_empty_features=True).fit_transform(values) if np.isnan(values).any() else values

    def _class_scores(self, X) -> np.ndarray:
        """Aggregated logits [N, C]."""
        check_is_fitted(self)
        if hasattr(self.estimator_, "predict_proba"):
            probabilities = np.asarray(self.estimator_.predict_proba(X), float)
            scores = np.log(np.maximum(probabilities, np.finfo(float).tiny))
        else:
            scores = np.asarray(self.estimator_.decision_function(X))
            if scores.ndim == 1:  # for two pseudo-classes
                scores = np.stack([np.zeros_like(scores), scores], axis=1)
        if self.n_pseudo_classes_ == 1:
            scores = scores[:, :1]  # some classifiers return two columns for a single class
        if scores.shape[1] != self.n_pseudo_classes_:
            raise ValueError(
                f"{self.estimator_!r} returns {scores.shape[1]} scores for {self.n_pseudo_classes_} pseudo-classes; "
                "it must return one for each (an SVC: decision_function_shape='ovr')"
            )
        return self.regrouping_.class_logits(scores, self.aggregate)
