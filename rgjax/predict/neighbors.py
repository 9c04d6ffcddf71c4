"""Explain predictions by the nearest training examples in feature space."""

import numpy as np

from rgjax.console import progress
from rgjax.data import load_data
from rgjax.encoders import Encoder, features_of, make_encoder
from rgjax.errors import UserError
from rgjax.predict.predictor import Predictor
from rgjax.predict.run import FinishedRun, encoder_of_run
from rgjax.storage import provenance
from rgjax.storage.files import cache_dir, cached_arrays, digest

_BATCHES_PER_STEP = 8  # of the progress bar


class Neighbors:
    """The training examples of a run.

    Attributes:
        features: penultimate features [N, D], of length 1.
        ids: names [N] of the examples.
        groups: pseudo-classes [N].
    """

    def __init__(self, features: np.ndarray, ids: np.ndarray, groups: np.ndarray):
        self.features, self.ids, self.groups = _unit_length(features), ids, groups

    @classmethod
    def of_run(cls, predictor: Predictor) -> "Neighbors":
        """Load the training examples of the predictor's run; cache their features.

        Raises UserError if they are not cached yet and the data set cannot be loaded, or has changed.
        """
        run = predictor.run

        def compute() -> dict[str, np.ndarray]:
            dataset = load_data(run.config.data)
            if dataset.fingerprint != run.data:
                raise UserError(f"the data set {dataset.name} has changed since the run was trained on it")
            if run.encoder:
                encoder = _file_of(run, dataset.kind) if run.kind == "features" else run.encoder
                features = predictor.start_read(features_of(encoder, dataset)[run.indices])().features
                return {"features": features, "ids": dataset.ids[run.indices]}
            size = _BATCHES_PER_STEP * predictor.batch_size
            starts = progress(range(0, len(run.indices), size), "training examples", unit="step")
            steps = (dataset.inputs[run.indices[start : start + size]] for start in starts)
            features = [predictor.outputs(inputs).features for inputs in steps]
            return {"features": np.concatenate(features), "ids": dataset.ids[run.indices]}

        key = digest("neighbours-v1", run.fingerprint, run.data, run.indices)
        stored = cached_arrays(cache_dir() / "features" / f"{key}.npz", compute)
        return cls(stored["features"], stored["ids"], run.regrouping.pseudo_labels)

    def nearest(self, features: np.ndarray, groups: np.ndarray, count: int) -> list[list[str]]:
        """The nearest training examples of the same pseudo-class, by cosine similarity.

        Args:
            features: of n inputs, [n, D].
            groups: their pseudo-classes [n].
            count: the number of neighbors, if the pseudo-class has as many.

        Returns:
            For each input the ids of up to `count` training examples, the nearest first.
        """
        nearest: list[list[str]] = [[] for _ in groups]
        for group in np.unique(groups):
            inputs, members = np.flatnonzero(groups == group), np.flatnonzero(self.groups == group)
            similarity = _unit_length(features[inputs]) @ self.features[members].T
            for i, order in zip(inputs, np.argsort(-similarity, axis=1, kind="stable"), strict=True):
                nearest[i] = self.ids[members[order[:count]]].tolist()
        return nearest


def _file_of(run: FinishedRun, kind: str) -> Encoder:
    """The encoder from the examples of a data set to the features that a run read.

    Raises UserError if the file is gone or has changed.
    """
    began = provenance.read(run.workdir).get("encoder")
    options = {"max_length": run.config.data.max_length, "encoder_of_run": encoder_of_run}
    return make_encoder(run.config.encoder, kind, began=began, **options)


def _unit_length(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
