"""The values of this room: what a source gives, and what a run trains and judges on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rgjax.errors import unknown


@dataclass(frozen=True)
class Source:
    """All rows of a data set, before any split.

    `inputs` uint8 images [N, H, W, 3] or sentences [N]; `labels` int32 [N]; rows of one of the `groups` [N] (a
    lesion, a sentence) belong together; `ids` [N] names each row; `official_test` and `official_val` bool [N], or None
    where there is no such set; `fingerprint` stands for the content; `notes` say what of it was left out.
    """

    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    ids: np.ndarray
    official_test: np.ndarray | None
    fingerprint: str
    official_val: np.ndarray | None = None
    notes: tuple[str, ...] = ()


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
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What its rows are: "images" or "sentences"."""
        return "sentences" if self.inputs.ndim == 1 else "images"

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """The indices of each split, by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def summary(self) -> str:
        """Name, sizes and notes in one line."""
        sizes = ", ".join(f"{len(indices)} {name}" for name, indices in self.splits.items())
        return "; ".join((f"{self.name}: {sizes} {self.kind}", *self.notes))

    def one_vs_rest(self, positive: str) -> "Dataset":
        """The binary view: 1 for the class `positive`, 0 for the rest."""
        if positive not in self.class_names:
            raise unknown("class in config.data.positive", positive, self.class_names)
        labels = (self.labels == self.class_names.index(positive)).astype(np.int32)
        return replace(self, name=f"{self.name}_{positive}", labels=labels, class_names=("rest", positive))


def dataset_spec(
    counts: Mapping[str, int], row: np.ndarray, *, official_test: Mapping[str, int] | None = None
) -> Source:
    """A source by its published size alone: `counts` rows a class, class by class, each a view of one and the same
    empty `row` and a group of its own, the last `official_test` of a class held out. It takes no memory to speak of.
    """
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))
    rows = np.arange(len(labels))
    held_out = None
    if official_test is not None:
        behind = np.cumsum(list(counts.values()))[labels] - rows  # rows of the class from this one on
        held_out = behind <= np.array([official_test[name] for name in counts])[labels]
    return Source(
        inputs=np.broadcast_to(row, (len(rows), *row.shape)),
        labels=labels,
        class_names=tuple(counts),
        groups=rows,
        ids=rows.astype(str),
        official_test=held_out,
        fingerprint="spec",
    )


def blank_image(size: int) -> np.ndarray:
    return np.zeros((size, size, 3), np.uint8)
