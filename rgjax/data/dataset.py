"""Dataset containers: a Source is a data set before its split, a Dataset after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rgjax.data.notes import Note
from rgjax.data.pictures.decode import Original
from rgjax.errors import unknown


@dataclass(frozen=True)
class Source:
    """All examples of a data set, before the split.

    Attributes:
        inputs: images uint8 [N, H, W, 3], sentences [N], or features float32 [N, D].
        labels: class indices int32 [N].
        class_names: the name of each class.
        group_ids: [N]; examples with the same id (one lesion, equal sentences) belong in one split.
        ids: the name of each example [N].
        official_test: bool [N]; None if the data set has no official test set.
        fingerprint: a hash of the content.
        official_val: bool [N]; None if the data set has no official validation set.
        notes: what was skipped or changed while the data were read.
        subclasses: the name of each example's subclass [N], "" where it has none; None if no example has one.
        pictures: the original pictures [N] of images at `config.image_size`; None where the inputs are the originals.
    """

    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    group_ids: np.ndarray
    ids: np.ndarray
    official_test: np.ndarray | None
    fingerprint: str
    official_val: np.ndarray | None = None
    notes: tuple[Note, ...] = ()
    subclasses: np.ndarray | None = None
    pictures: Sequence[Original] | None = None


@dataclass(frozen=True)
class Dataset:
    """A source with its split: `train`, `val` and `test` are indices of examples."""

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    fingerprint: str
    notes: tuple[Note, ...] = ()
    subclasses: np.ndarray | None = None
    pictures: Sequence[Original] | None = None

    @property
    def kind(self) -> str:
        """The type of the inputs: "images", "sentences" or "features"."""
        return {1: "sentences", 2: "features"}.get(self.inputs.ndim, "images")

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """The indices of each split, by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def summary(self) -> str:
        """Name and split sizes in one line, then a line for each note."""
        sizes = ", ".join(f"{len(indices)} {name}" for name, indices in self.splits.items())
        return "\n".join([f"{self.name}: {sizes} {self.kind}", *(f"note: {note}" for note in self.notes)])

    def one_vs_rest(self, positive: str) -> "Dataset":
        """The binary view: label 1 for the class `positive`, 0 for all other classes.

        The original classes become subclasses, `CLASS/SUBCLASS` where an example has a subclass already.
        """
        if positive not in self.class_names:
            raise unknown("class in config.data.positive", positive, self.class_names)
        labels = (self.labels == self.class_names.index(positive)).astype(np.int32)
        subclasses = np.array(self.class_names)[self.labels]
        if self.subclasses is not None:
            names = zip(subclasses.tolist(), self.subclasses.tolist(), strict=True)
            subclasses = np.array([f"{name}/{subclass}" if subclass else name for name, subclass in names])
        name = f"{self.name}_{positive}"
        return replace(self, name=name, labels=labels, class_names=("rest", positive), subclasses=subclasses)


def dataset_spec(
    counts: Mapping[str, int], example: np.ndarray, *, official_test: Mapping[str, int] | None = None
) -> Source:
    """A source known by its published class counts alone; takes almost no memory.

    Args:
        counts: the number of examples of each class. They are ordered by class, and each is its own group.
        example: an empty input, which stands for every example as a broadcast view.
        official_test: the number of examples of each class in the official test set: the last ones of the class.
    """
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))
    indices = np.arange(len(labels))
    in_test = None
    if official_test is not None:
        left_in_class = np.cumsum(list(counts.values()))[labels] - indices  # this example and those after it
        in_test = left_in_class <= np.array([official_test[name] for name in counts])[labels]
    return Source(
        inputs=np.broadcast_to(example, (len(indices), *example.shape)),
        labels=labels,
        class_names=tuple(counts),
        group_ids=indices,
        ids=indices.astype(str),
        official_test=in_test,
        fingerprint="spec",
    )


def blank_image(size: int) -> np.ndarray:
    """A black image uint8 [size, size, 3]."""
    return np.zeros((size, size, 3), np.uint8)
