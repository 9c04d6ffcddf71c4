"""What an inner classifier needs because it is trained on groups, not on classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from numbers import Real
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline

from rgjax.errors import first_few
from rgjax.regroup.regrouping import Regrouping

# They train the classifiers inside them on labels of their making.
RELABELING = (
    *(OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier),
    *(ClassifierChain, MultiOutputClassifier),
)
# Parameters that name classes or count them, with their harmless values and the way out. Of all of them, None is one.
REFUSED: Mapping[str, tuple[tuple, str]] = {
    "pos_label": ((), "wrap RegroupClassifier in this estimator instead"),
    "outlier_label": (("most_frequent",), "use 'most_frequent'"),
    "constant": ((), "leave it out"),
    "classes": ((), "leave it out"),
    "class_names": ((), "leave it out"),
    "num_class": ((), "leave it out"),
    "classes_count": ((), "leave it out"),
    "cost_matrix": ((), "use class_weight or sample_weight"),
    "scale_pos_weight": ((1,), "use class_weight or sample_weight"),
    "is_unbalance": ((False,), "use class_weight or sample_weight"),
}
# Parameters of `fit` that hold classes of other samples.
REFUSED_IN_FIT: Mapping[str, tuple[tuple, str]] = dict.fromkeys(
    ("y_val", "eval_set", "validation_data"), ((), "let the inner classifier split off its validation samples")
)
BINARY_SCORES = ("average_precision", "f1", "jaccard", "precision", "recall", "roc_auc")
GRIDS = ("param_grid", "param_distributions")


@dataclass(frozen=True)
class Groups:
    """The groups as an inner classifier sees them.

    Attributes:
        classes: the user's classes.
        parent: the index into `classes` of each group [K].
        shares: of each group among the samples of its class [K].
    """

    classes: np.ndarray
    parent: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, classes: np.ndarray, regrouping: Regrouping) -> "Groups":
        return cls(classes, regrouping.parent, regrouping.counts / regrouping.class_counts)

    def set_params(self, inner: Any) -> None:
        """Translate the parameters of a classifier, and of those inside it.

        Raises ValueError for a parameter that cannot be translated.
        """
        params = inner.get_params()
        changes = {}
        for name, value in params.items():
            path = name.split("__")[:-1]
            parents = [inner, *(params.get("__".join(path[: i + 1])) for i in range(len(path)))]
            translated = self.translated(name, value, next((p for p in parents if isinstance(p, RELABELING)), None))
            if translated is not value:
                changes[name] = translated
        inner.set_params(**changes)

    def fit_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Translate parameters of `fit`; raises ValueError as `set_params` does."""
        for name, value in params.items():
            _refuse(name, value, REFUSED_IN_FIT)
        return {name: self.translated(name, value) for name, value in params.items()}

    def translated(self, name: str, value: Any, relabels: Any = None) -> Any:
        """The value for groups of a parameter, the same object if it names no class.

        Args:
            name: such as step__class_weight.
            value: for the user's classes.
            relabels: an estimator around that of the parameter which makes labels of its own.
        """
        leaf = name.rpartition("__")[2]
        if leaf in GRIDS:
            return self._grids(value, relabels)
        _refuse(name, value, REFUSED)
        if leaf == "sampling_strategy" and not (value is None or isinstance(value, str)):
            raise ValueError(f"{name}={value!r}: names classes, but the sampler sees groups; use a string like 'auto'")
        if leaf == "scoring" and isinstance(value, str) and value in BINARY_SCORES:
            raise ValueError(f"{name}={value!r}: is for two classes; put what scores around RegroupClassifier")
        translate = {"class_weight": self._weights, "class_weights": self._weights}.get(leaf)
        translate = translate or {"priors": self._priors, "class_prior": self._priors}.get(leaf)
        if translate is None or value is None or isinstance(value, str):
            return value
        if relabels is not None:
            raise ValueError(
                f"{name}={value!r}: {type(relabels).__name__} trains on labels of its making, which it cannot name; "
                "use sample_weight"
            )
        return translate(name, value)

    def _grids(self, grids: Any, relabels: Any) -> Any:
        """A grid of parameters, or several, with translated values."""
        if isinstance(grids, Mapping):
            return {
                name: [self.translated(name, value, relabels) for value in values]
                if isinstance(values, Sequence | np.ndarray)
                else values
                for name, values in grids.items()
            }
        return [self._grids(grid, relabels) for grid in grids]

    def _weights(self, name: str, weights: Any) -> Any:
        """Every group of a class gets the weight of the class."""
        if not isinstance(weights, Mapping):
            return self._of_classes(name, weights)[self.parent].tolist()
        classes = self.classes.tolist()
        unknown = [label for label in weights if label not in classes]
        if unknown and any(label not in weights for label in classes):  # scikit-learn's rule
            raise ValueError(
                f"{name}={dict(weights)!r}: no class is called {first_few(map(repr, unknown))}; the classes are "
                f"{first_few(map(repr, classes))}"
            )
        return {g: weights[classes[c]] for g, c in enumerate(self.parent.tolist()) if classes[c] in weights}

    def _priors(self, name: str, priors: Any) -> Any:
        """The groups of a class share its prior in proportion to their sizes."""
        return self._of_classes(name, priors)[self.parent] * self.shares

    def _of_classes(self, name: str, values: Any) -> np.ndarray:
        """One number for each class, in the order of `classes`."""
        numbers = isinstance(values, Sequence | np.ndarray) and all(isinstance(value, Real) for value in values)
        if not numbers or len(values) != len(self.classes):
            raise ValueError(f"{name}={values!r}: must be a number for each of the {len(self.classes)} classes")
        return np.asarray(values, float)


def _refuse(name: str, value: Any, refused: Mapping[str, tuple[tuple, str]]) -> None:
    harmless, way_out = refused.get(name.rpartition("__")[2], ((value,), ""))
    if value is not None and not any(value is good or (np.isscalar(value) and value == good) for good in harmless):
        shown = f"{name}={value!r}" if np.isscalar(value) else name
        raise ValueError(f"{shown}: speaks of classes, but the inner classifier sees groups; {way_out}")


def limits(inner: Any, num_samples: int, num_classes: int) -> tuple[int, int | None]:
    """The least size of a group, and the most groups of a class, for a classifier.

    It may split the samples itself. Early stopping makes a stratified split: it needs two samples of each group, and as
    many validation samples as there are groups. A calibration needs a sample of each group in every fold.
    """
    least, most = 0, None
    for estimator in estimators(inner):
        params = estimator.get_params(deep=False)
        share = params.get("validation_fraction")
        stops = params.get("early_stopping", params.get("n_iter_no_change") is not None)
        if share is not None and (num_samples > 10_000 if isinstance(stops, str) else stops):
            rows = int(share if share >= 1 else np.ceil(share * num_samples))
            least, most = max(least, 2), max(1, min(rows // num_classes, most or rows))
        if isinstance(estimator, CalibratedClassifierCV):
            folds = 5 if estimator.cv is None else estimator.cv
            least = max(least, folds if isinstance(folds, int) else 0)
    return least, most


def estimators(inner: Any) -> Iterator[Any]:
    """The classifier and all estimators inside it."""
    yield inner
    for value in inner.get_params().values():
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield value


def weight_parameter(inner: Any) -> str | None:
    """The parameter of `fit` for sample weights, None if there is none.

    Of a pipeline, it is that of the last step.
    """
    if isinstance(inner, Pipeline):
        step, last = inner.steps[-1]
        name = weight_parameter(last) if hasattr(last, "fit") else None
        return name and f"{step}__{name}"
    parameters = signature(inner.fit).parameters
    if "sample_weight" in parameters:
        return "sample_weight"
    if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return weight_parameter(inner.estimator) if hasattr(inner, "estimator") else "sample_weight"
