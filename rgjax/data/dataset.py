"""What every source of data gives: images, labels, groups and a split."""

from dataclasses import dataclass, replace

import numpy as np

from rgjax.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """`inputs` uint8 [N, H, W, 3], `labels` int32 [N]; rows of one group [N] (a lesion) may not straddle a split.

    `train`, `val` and `test` are rows; `fingerprint` stands for the content.
    """

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    ids: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    fingerprint: str

    def one_vs_rest(self, positive: str) -> "Dataset":
        """The binary view: 1 for the class `positive`, 0 for the rest."""
        if positive not in self.class_names:
            raise UserError(
                f"config.data.positive: there is no class '{positive}'; valid: {', '.join(self.class_names)}"
            )
        labels = (self.labels == self.class_names.index(positive)).astype(np.int32)
        return replace(self, name=f"{self.name}_{positive}", labels=labels, class_names=("rest", positive))
