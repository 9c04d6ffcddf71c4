"""Regrouping around any scikit-learn classifier."""

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
    """A check whether the inner classifier, fitted or not, has one of the methods."""

    def check(self) -> bool:
        inner = getattr(self, "estimator_", None) or self._inner()
        return any(hasattr(inner, method) for method in methods)

    return check


class RegroupClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Fits a classifier to pseudo-classes of the large classes, and predicts classes.

    K-means is sensitive to the scales of the features: put a `StandardScaler` before it. If the inner classifier
    accepts missing values, K-means replaces them by the mean of their column. Parameters of `fit` other than `features`
    are passed to the inner `fit`, by metadata routing if that is enabled. `sample_weight` is one of them: it does not
    affect the clustering.

    Parameters
    ----------
    estimator : a multi-class classifier; None: `LogisticRegression(max_iter=1000)`. Its labels are the pseudo-classes,
        0 to `n_pseudo_classes_` - 1, so that its `class_weight="balanced"` balances the pseudo-classes.
    rule, threshold : the number of pseudo-classes. "ratio": n_c / n_min for classes of more than `threshold` samples;
        "target": n_c / threshold. Rounded half up.
    clustering : "kmeans", "balanced" (K-means with clusters of equal size), "spectral" (normalized cut), "random" (the
        ablation) or "none".
    aggregate : "max": the most probable pseudo-class of each class, renormalized over the classes. "sum": the sum of
        the probabilities of its pseudo-classes. "max" moves decisions towards small classes. The logits for
        `rgjax.regroup.aggregate` are the logarithms of the inner `predict_proba`; without one, the values of the inner
        `decision_function`, for which "sum" is not defined.
    n_init : restarts of K-means.
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
        """Cluster the samples, and fit the inner classifier to the pseudo-classes.

        Args:
            X: samples [N, ...], passed to the inner classifier.
            y: classes [N].
            features: for the clustering, [N, D]; None: `X`.
            **fit_params: for the inner `fit`.

        Raises:
            ValueError: for features that K-means cannot use, and invalid settings.
            TypeError: for a sparse `X` without `features`.
        """
        inner = self._inner()
        if self.aggregate not in AGGREGATIONS:
            raise ValueError(f"aggregate={self.aggregate!r}: unknown; valid: {', '.join(AGGREGATIONS)}")
        if self.aggregate == "sum" and not hasattr(inner, "predict_proba"):
            raise ValueError(f"aggregate='sum': {inner!r} has no predict_proba; use aggregate='max'")
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
            requested = {} if features is None else {"features": features}
            routed = process_routing(self, "fit", **requested, **fit_params)
        self.estimator_ = inner.fit(X, self.regrouping_.pseudo_labels, **routed.estimator.fit)
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
        """Requests `features`, and routes what the inner classifier requests."""
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
                "Sparse X: K-means needs dense features; use fit(X, y, features=...) with those of a TruncatedSVD, "
                "or clustering='random'"
            )
        if features is not None:
            return check_array(features, dtype="float32", input_name="features", estimator=self)
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
