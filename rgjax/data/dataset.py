"""The values of this room: what a source gives, and what a run trains and judges on."""

from dataclasses import dataclass, replace

import numpy as np

from rgjax.errors import unknown


@dataclass(frozen=True)
class Source:
    """All rows of a data set, before any split.

    `inputs` uint8 images [N, H, W, 3] or sentences [N]; `labels` int32 [N]; rows of one of the `groups` [N] (a
    lesion, a sentence) belong together; `ids` [N] names each row; `official_test` bool [N], or None where there is
    no official test set; `fingerprint` stands for the content.
    """

    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    ids: np.ndarray
    official_test: np.ndarray | None
    fingerprint: str


@dataclass(frozen=True)
class Dataset:
    """A source under its split: `train`, `val` and `test` are rows of `inputs`, `labels` and `ids`."""

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    fingerprint: str

    @property
    def kind(self) -> str:
        """What its rows are: "images" or "sentences"."""
        return "sentences" if self.inputs.dtype.kind == "U" else "images"

    def one_vs_rest(self, positive: str) -> "Dataset":
        """The binary view: 1 for the class `positive`, 0 for the rest."""
        if positive not in self.class_names:
            raise unknown("class in config.data.positive", positive, self.class_names)
        labels = (self.labels == self.class_names.index(positive)).astype(np.int32)
        return replace(self, name=f"{self.name}_{positive}", labels=labels, class_names=("rest", positive))
