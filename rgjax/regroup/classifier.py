"""Regrouping around any classifier of scikit-learn's kind."""

from typing import Any

import numpy as np
from scipy.sparse import issparse
from scipy.special import softmax
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch, check_array, check_consistent_length, check_random_state, column_or_1d, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted

from rgjax.regroup.aggregation import AGGREGATIONS
from rgjax.regroup.regrouping import FEATURE_CLUSTERINGS, regroup


def _inner_has(*methods: str):
    """Whether the inner classifier, fitted or not, has one of the methods."""

    def check(self) -> bool:
        inner = getattr(self, "estimator_", None) or self._inner()
        return any(hasattr(inner, method) for method in methods)

    return check


class RegroupClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Splits large classes into groups by K-means, fits a classifier on the groups, and predicts the classes.

    Parameters
    ----------
    estimator : a multi-class classifier; None is `LogisticRegression(max_iter=1000)`. It is fitted on the groups'
        numbers, 0 to `n_pseudo_classes_` - 1, so that its `class_weight="balanced"` balances the groups.
    rule, threshold : how many groups. "ratio": n_c / n_min for classes above `threshold` rows; "target":
        n_c / threshold. Rounded half up.
    clustering : "kmeans", "balanced" (K-means with groups of equal size), "spectral" (normalized cut), "random" (the
        ablation) or "none".
    aggregate : "max" takes a class's most probable group, renormalized over the classes; "sum" adds up the
        probabilities of its groups. "max" moves decisions towards small classes. In the terms of
        `rgjax.regroup.aggregate` the logits are the logarithms of the inner `predict_proba`, or, where there is none,
        the inner `decision_function`, for which there is "max" alone.
    n_init : restarts of K-means.
    random_state : of the clustering; the inner classifier has its own.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_ (the last two if the inner classifier has them); `estimator_`, the
    fitted inner classifier; `regrouping_`, a `Regrouping`, whose classes are the places in `classes_`;
    `n_pseudo_classes_`.

    K-means is sensitive to the features' scales: put a `StandardScaler` or the like before it. Where the inner
    classifier takes missing values, K-means reads them as their column's mean. Parameters of `fit` other than
    `features` go to the inner `fit`, by metadata routing where that is enabled. `sample_weight` is one of them: it has
    no part in the grouping.

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
        random_state=None,
    ):
        self.estimator = estimator
        self.rule = rule
        self.threshold = threshold
        self.clustering = clustering
        self.aggregate = aggregate
        self.n_init = n_init
        self.random_state = random_state

    def fit(self, X, y, features=None, **fit_params):
        """Group the rows of `X` by `features` [N, D] (`X` itself if None), and fit the classifier on the groups.

        Raises ValueError for features that K-means cannot take, TypeError for a sparse `X` without any.
        """
        inner = self._inner()
        if self.aggregate not in AGGREGATIONS:
            raise ValueError(f"unknown aggregate {self.aggregate!r}; valid: {', '.join(AGGREGATIONS)}")
        if self.aggregate == "sum" and not hasattr(inner, "predict_proba"):
            raise ValueError(f"aggregate='sum' adds up probabilities, and {inner!r} has no predict_proba: use 'max'")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        check_consistent_length(X, y, features)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.regrouping_ = regroup(
            self._features(X, features) if self.clustering in FEATURE_CLUSTERINGS else None,
            labels,
            len(self.classes_),
            rule=self.rule,
            threshold=self.threshold,
            clustering=self.clustering,
            seed=check_random_state(self.random_state).randint(2**31),
            n_init=self.n_init,
        )
        self.n_pseudo_classes_ = self.regrouping_.num_pseudo_classes
        routed = Bunch(estimator=Bunch(fit=fit_params))
        if get_config()["enable_metadata_routing"]:
            own = {} if features is None else {"features": features}
            routed = process_routing(self, "fit", **own, **fit_params)
        self.estimator_ = inner.fit(X, self.regrouping_.pseudo_labels, **routed.estimator.fit)
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict(self, X) -> np.ndarray:
        """The classes [N] of the rows."""
        check_is_fitted(self)
        if _inner_has("predict_proba", "decision_function")(self):
            return self.classes_[self._class_scores(X).argmax(axis=1)]
        return self.classes_[self.regrouping_.parent[self.estimator_.predict(X)]]

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X) -> np.ndarray:
        """Probabilities [N, C] of the classes."""
        return softmax(self._class_scores(X), axis=1)

    @available_if(_inner_has("predict_proba", "decision_function"))
    def decision_function(self, X) -> np.ndarray:
        """Scores [N, C] of the classes; of two classes the second's less the first's [N]: log-odds, where the inner
        classifier has probabilities."""
        scores = self._class_scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def get_metadata_routing(self) -> MetadataRouter:
        """Asks for `features` itself (`set_fit_request`) and hands on what the inner classifier asks for."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        router = MetadataRouter(owner=type(self).__name__).add_self_request(self)
        return router.add(estimator=self._inner(), method_mapping=mapping)

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

    def _features(self, X, features):
        if features is None and issparse(X):
            raise TypeError(
                "Sparse X: K-means needs dense features; give fit(X, y, features=...), for instance of a TruncatedSVD, "
                "or use clustering='random'"
            )
        if features is not None:
            return check_array(features, dtype="float32", input_name="features", estimator=self)
        missing: Any = "allow-nan" if get_tags(self).input_tags.allow_nan else True
        values = check_array(X, dtype="float32", ensure_all_finite=missing, input_name="X", estimator=self)
        return SimpleImputer(keep_empty_features=True).fit_transform(values) if np.isnan(values).any() else values

    def _class_scores(self, X) -> np.ndarray:
        """What the classes are ranked by [N, C]."""
        check_is_fitted(self)
        if hasattr(self.estimator_, "predict_proba"):
            probabilities = np.asarray(self.estimator_.predict_proba(X), float)
            scores = np.log(np.maximum(probabilities, np.finfo(float).tiny))
        else:
            scores = np.asarray(self.estimator_.decision_function(X))
            if scores.ndim == 1:  # of two groups
                scores = np.stack([np.zeros_like(scores), scores], axis=1)
        if self.n_pseudo_classes_ == 1:
            scores = scores[:, :1]  # some classifiers give two columns even so
        if scores.shape[1] != self.n_pseudo_classes_:
            raise ValueError(
                f"{self.estimator_!r} gives {scores.shape[1]} scores a row for {self.n_pseudo_classes_} groups: "
                "it must give one for each (of an SVC: decision_function_shape='ovr')"
            )
        return self.regrouping_.class_logits(scores, self.aggregate)
