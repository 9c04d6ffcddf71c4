"""Features that the user brings, matched to the data set by id."""

import numpy as np

from rgjax.data.feature_file import read_features
from rgjax.encoders.encoder import Encoder
from rgjax.errors import UserError, first_few
from rgjax.storage.files import file_sha256


def features_file(name: str) -> Encoder:
    """The encoder of ids [N] by the features in a file; it may have more.

    Raises UserError for a file that cannot be read.
    """
    file = read_features(name, "config.encoder.checkpoint")
    if file.numbered:
        raise UserError(f"{file.path}: no ids, by which its features are matched to the data set; add an array 'ids'")
    rows = {identity: row for row, identity in enumerate(file.ids)}

    def encode(ids: np.ndarray) -> np.ndarray:
        names = [str(identity) for identity in ids.tolist()]
        if missing := [identity for identity in names if identity not in rows]:
            raise UserError(
                f"{file.path}: {len(missing)} of {len(names)} ids of the data set are missing: {first_few(missing)}; "
                "`python -m rgjax.encoders` writes a file with all of them"
            )
        return file.features[[rows[identity] for identity in names]]

    sha256 = file_sha256(file.path)
    return Encoder(sha256, encode, "ids", {"checkpoint": name, "sha256": sha256})
