"""Parameters of inner classifiers that speak of the user's classes."""

import numpy as np
import pytest
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline as make_sampling_pipeline
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from rgjax.regroup import RegroupClassifier, Regrouping
from rgjax.regroup.inner import Groups, limits, weight_parameter

# Classes "a" of groups 0 to 2, "b" of group 3, "c" of groups 4 and 5.
PARENT, COUNTS = np.array([0, 0, 0, 1, 2, 2], np.int32), [4, 3, 1, 2, 5, 5]
GROUPS = Groups.of(np.array(["a", "b", "c"]), Regrouping(np.repeat(np.arange(6, dtype=np.int32), COUNTS), PARENT))
WEIGHTS, EXPECTED = {"a": 1, "b": 50, "c": 2.5}, {0: 1, 1: 1, 2: 1, 3: 50, 4: 2.5, 5: 2.5}


def data(seed=0, sizes=(120, 30), names=("many", "few")):
    rng = np.random.default_rng(seed)
    y = np.repeat(names, sizes)
    return rng.normal(size=(len(y), 3)) + (y == names[1])[:, None], y


def random_groups(inner, **settings):
    """Random groups need no K-means, which takes seconds to compile."""
    return RegroupClassifier(inner, clustering="random", random_state=0, **settings)


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (LogisticRegression(class_weight=WEIGHTS), "class_weight"),
        (RandomForestClassifier(class_weight=WEIGHTS), "class_weight"),
        (SVC(class_weight=WEIGHTS), "class_weight"),
        (SGDClassifier(class_weight=WEIGHTS), "class_weight"),
        (HistGradientBoostingClassifier(class_weight=WEIGHTS), "class_weight"),
        (make_pipeline(StandardScaler(), RidgeClassifier(class_weight=WEIGHTS)), "ridgeclassifier__class_weight"),
        (BaggingClassifier(SVC(class_weight=WEIGHTS)), "estimator__class_weight"),
        (VotingClassifier([("tree", DecisionTreeClassifier(class_weight=WEIGHTS))]), "tree__class_weight"),
        (
            CalibratedClassifierCV(make_pipeline(StandardScaler(), ExtraTreesClassifier(class_weight=WEIGHTS))),
            "estimator__extratreesclassifier__class_weight",
        ),
    ],
)
def test_weights_of_classes_become_weights_of_groups(inner, name):
    GROUPS.set_params(inner)
    assert inner.get_params()[name] == EXPECTED


@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
def test_weights_in_grids_become_weights_of_groups(search):
    grids = [{"class_weight": [WEIGHTS, "balanced", None]}, {"C": [1, 2]}]
    inner = search(LogisticRegression(), grids)
    GROUPS.set_params(inner)
    grid = inner.get_params()["param_grid" if search is GridSearchCV else "param_distributions"]
    assert grid == [{"class_weight": [EXPECTED, "balanced", None]}, {"C": [1, 2]}]


@pytest.mark.parametrize("weight", ["balanced", "balanced_subsample", None])
def test_other_weights_stay(weight):
    inner = RandomForestClassifier(class_weight=weight)
    GROUPS.set_params(inner)
    assert inner.class_weight == weight


def test_classes_without_a_weight_weigh_one_as_in_scikit_learn():
    assert GROUPS.translated("class_weight", {"b": 3}) == {3: 3}
    assert GROUPS.translated("class_weight", WEIGHTS | {"absent in this fold": 9}) == EXPECTED
    with pytest.raises(ValueError, match=r"m__class_weight=\{0: 1, 'b': 5\}: no class is called 0; .* 'a', 'b', 'c'"):
        GROUPS.translated("m__class_weight", {0: 1, "b": 5})


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (GaussianNB(priors=[0.5, 0.2, 0.3]), "priors"),
        (MultinomialNB(class_prior=np.array([0.5, 0.2, 0.3])), "class_prior"),
        (LinearDiscriminantAnalysis(priors=(0.5, 0.2, 0.3)), "priors"),
        (make_pipeline(QuadraticDiscriminantAnalysis(priors=[0.5, 0.2, 0.3])), "quadraticdiscriminantanalysis__priors"),
    ],
)
def test_groups_share_the_prior_of_their_class(inner, name):
    GROUPS.set_params(inner)
    priors = inner.get_params()[name]
    np.testing.assert_allclose(np.bincount(PARENT, priors), [0.5, 0.2, 0.3])
    np.testing.assert_allclose(priors[:3], np.array([4, 3, 1]) / 8 * 0.5)
    with pytest.raises(ValueError, match=r"priors=\[0\.5, 0\.5\]: must be a number for each of the 3 classes"):
        GROUPS.translated("priors", [0.5, 0.5])


class Boosted(ClassifierMixin, BaseEstimator):
    """The parameters of gradient boosting libraries."""

    def __init__(self, scale_pos_weight=None, is_unbalance=False, class_weights=None):
        self.scale_pos_weight = scale_pos_weight
        self.is_unbalance = is_unbalance
        self.class_weights = class_weights


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        (
            FixedThresholdClassifier(LogisticRegression(), pos_label="b"),
            "pos_label='b': speaks of.*wrap Regroup",
        ),
        (make_pipeline(FixedThresholdClassifier(SVC(), pos_label=1)), "fixedthresholdclassifier__pos_label=1: speaks"),
        (RadiusNeighborsClassifier(outlier_label="a"), "outlier_label='a': speaks of classes.*use 'most_frequent'"),
        (Boosted(scale_pos_weight=99.0), "scale_pos_weight=99.0: speaks of classes.*use class_weight or sample_weight"),
        (BaggingClassifier(Boosted(is_unbalance=True)), "estimator__is_unbalance=True: speaks of classes"),
        (
            OneVsRestClassifier(SVC(class_weight=WEIGHTS)),
            "estimator__class_weight=.*OneVsRestClassifier trains",
        ),
        (
            make_pipeline(OneVsOneClassifier(make_pipeline(GaussianNB(priors=[0.1, 0.9])))),
            "onevsoneclassifier__estimator__gaussiannb__priors=.*OneVsOneClassifier trains",
        ),
        (
            make_sampling_pipeline(RandomOverSampler(sampling_strategy={"a": 9}), SVC()),
            "randomoversampler__sampling_strategy={'a': 9}: names classes",
        ),
        (
            make_sampling_pipeline(RandomOverSampler(sampling_strategy=0.5), SVC()),
            "sampling_strategy=0.5: names",
        ),
        (GridSearchCV(SVC(), {"C": [1, 2]}, scoring="f1"), "scoring='f1': is for two classes; put what scores around"),
    ],
)
def test_what_has_no_meaning_for_groups_is_refused(inner, says):
    with pytest.raises(ValueError, match=says):
        GROUPS.set_params(inner)


def test_what_names_no_class_is_not_refused():
    for inner in (
        *(Boosted(), Boosted(scale_pos_weight=1), RadiusNeighborsClassifier(outlier_label="most_frequent")),
        make_sampling_pipeline(RandomOverSampler(sampling_strategy="not majority"), SVC()),
        *(GridSearchCV(SVC(), {"C": [1]}, scoring="balanced_accuracy"), FixedThresholdClassifier(SVC())),
        OneVsRestClassifier(SVC(class_weight="balanced")),
    ):
        before = repr(inner)
        GROUPS.set_params(inner)
        assert repr(inner) == before
    inner = Boosted(class_weights=[1, 5, 2])
    GROUPS.set_params(inner)
    assert inner.class_weights == [1, 1, 1, 5, 2, 2]


def test_parameters_of_fit_are_translated_or_refused():
    assert GROUPS.fit_params({"model__class_weight": WEIGHTS, "epochs": 3}) == {
        "model__class_weight": EXPECTED,
        "epochs": 3,
    }
    for name in ("y_val", "model__eval_set", "validation_data"):
        with pytest.raises(ValueError, match=f"{name}: speaks of classes.*split off its validation"):
            GROUPS.fit_params({name: [np.zeros((2, 3)), np.array(["a", "b"])]})


@pytest.mark.parametrize("names", [("many", "few"), (0, 1), (True, False), (-1.0, 2.0)])
def test_weights_of_classes_equal_weights_of_their_samples(names):
    x, y = data(names=names)
    weights = {names[0]: 0.5, names[1]: 20.0}
    model = random_groups(LogisticRegression(C=0.1, max_iter=1000, class_weight=weights)).fit(x, y)
    plain = random_groups(LogisticRegression(C=0.1, max_iter=1000))
    by_samples = plain.fit(x, y, sample_weight=np.where(y == names[1], 20.0, 0.5))
    assert model.n_pseudo_classes_ == 5
    np.testing.assert_allclose(model.predict_proba(x), by_samples.predict_proba(x), atol=1e-3)
    recall = [(m.predict(x) == y)[y == names[1]].mean() for m in (model, plain.fit(x, y))]
    assert recall[0] > recall[1]
    assert model.estimator.class_weight is weights  # the user's classifier is as it was


def test_priors_of_classes_shift_decisions_to_them():
    x, y = data(names=("b", "a"))
    share = [
        (random_groups(GaussianNB(priors=priors), aggregate="sum").fit(x, y).predict(x) == "a").mean()
        for priors in ([0.05, 0.95], [0.5, 0.5], [0.95, 0.05])
    ]
    assert share[0] < share[1] < share[2]


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (HistGradientBoostingClassifier(), (0, None)),
        (HistGradientBoostingClassifier(early_stopping=True), (2, 25)),
        (HistGradientBoostingClassifier(early_stopping=True, validation_fraction=None), (0, None)),
        (make_pipeline(StandardScaler(), HistGradientBoostingClassifier(early_stopping=True)), (2, 25)),
        (BaggingClassifier(MLPClassifier(early_stopping=True, validation_fraction=0.2)), (2, 50)),
        (SGDClassifier(), (0, None)),
        (SGDClassifier(early_stopping=True), (2, 25)),
        (GradientBoostingClassifier(n_iter_no_change=3), (2, 25)),
        (GradientBoostingClassifier(), (0, None)),
        (CalibratedClassifierCV(SVC(), cv=7), (7, None)),
        (CalibratedClassifierCV(SVC()), (5, None)),
    ],
)
def test_splits_of_inner_classifiers_limit_the_groups(inner, expected):
    assert limits(inner, 500, 2) == expected


def test_large_data_stop_early_by_default():
    assert limits(HistGradientBoostingClassifier(), 10_001, 3) == (2, 333)


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (LogisticRegression(), "sample_weight"),
        (KNeighborsClassifier(), None),
        (make_pipeline(StandardScaler(), SVC()), "svc__sample_weight"),
        (make_pipeline(StandardScaler(), KNeighborsClassifier()), None),
        (make_pipeline(StandardScaler(), "passthrough"), None),
        (GridSearchCV(make_pipeline(SVC()), {}), "svc__sample_weight"),
        (GridSearchCV(KNeighborsClassifier(), {}), None),
        (RegroupClassifier(KNeighborsClassifier()), None),
        (RegroupClassifier(), "sample_weight"),
    ],
)
def test_the_parameter_for_weights(inner, name):
    assert weight_parameter(inner) == name
