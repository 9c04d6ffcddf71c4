"""The training rows that a network sees as most like a new one: an explanation of what it predicts."""

import numpy as np

from rgjax.console import progress
from rgjax.data import load_data
from rgjax.errors import UserError
from rgjax.predict.predictor import Predictor
from rgjax.storage.files import cache_dir, cached_arrays, digest

_BATCHES = 8  # a step of the progress bar


class Neighbors:
    """The training rows of a run: `features` [N, D], of length 1, `ids` [N] and pseudo-classes `groups` [N]."""

    def __init__(self, features: np.ndarray, ids: np.ndarray, groups: np.ndarray):
        self.features, self.ids, self.groups = _unit(features), ids, groups

    @classmethod
    def of_run(cls, predictor: Predictor) -> "Neighbors":
        """The training rows of the predictor's run, their features kept on disk by content.

        Raises UserError where that has not been done yet and the data set cannot be loaded again as it was.
        """
        run = predictor.run

        def compute() -> dict[str, np.ndarray]:
            dataset = load_data(run.config.data)
            if dataset.fingerprint != run.data:
                raise UserError(f"the data set {dataset.name} is another than the run was trained on")
            size = _BATCHES * predictor.batch_size
            starts = progress(range(0, len(run.indices), size), "training rows", unit="step")
            rows = [run.indices[start : start + size] for start in starts]
            found = [predictor.outputs(dataset.inputs[some]).features for some in rows]
            return {"features": np.concatenate(found), "ids": dataset.ids[run.indices]}

        key = digest("neighbours-v1", run.fingerprint, run.data, run.indices)
        stored = cached_arrays(cache_dir() / "features" / f"{key}.npz", compute)
        return cls(stored["features"], stored["ids"], run.regrouping.pseudo_labels)

    def nearest(self, features: np.ndarray, groups: np.ndarray, count: int) -> list[list[str]]:
        """For rows with `features` [n, D], the ids of the up to `count` training rows of the pseudo-class `groups` [n]
        that are nearest by the cosine, the nearest first."""
        nearest: list[list[str]] = [[] for _ in groups]
        for group in np.unique(groups):
            rows, members = np.flatnonzero(groups == group), np.flatnonzero(self.groups == group)
            cosines = _unit(features[rows]) @ self.features[members].T
            for row, order in zip(rows, np.argsort(-cosines, axis=1, kind="stable"), strict=True):
                nearest[row] = self.ids[members[order[:count]]].tolist()
        return nearest


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
