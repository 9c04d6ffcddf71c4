"""Write the features of a data set to a file, for use in any other tool.

    python -m rgjax.encoders --config=configs/FILE.py [--config.encoder.NAME=VALUE ...] --output=features.npz

The file has `ids` [N], as predictions.npz has them, `features` [N, D] float32, `labels` [N] and `class_names` [C],
`splits` [N] (train, val, test), and `encoder`: name, weights and sizes of the encoder as JSON. A .parquet file has the
columns id, features, label (the class name) and split instead. Both can be read by --config.encoder.name=file
--config.encoder.checkpoint=FILE and by --config.data.name=features --config.data.manual_dir=FILE.
"""

import importlib
import json
import logging as python_logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from absl import flags, logging
from pyarrow import parquet

from rgjax import config as settings
from rgjax.command import CONFIG, run_with_config
from rgjax.config import AUTO
from rgjax.console import local_path
from rgjax.data import Dataset, load_data
from rgjax.data.feature_file import SUFFIXES
from rgjax.encoders.encoder import Encoder, features_of
from rgjax.encoders.factory import make_encoder
from rgjax.errors import UserError
from rgjax.sharding import require_devices
from rgjax.storage.files import atomic_path, write_npz

_log = python_logging.getLogger("rgjax")  # __name__ is "__main__" in a command

_OUTPUT = flags.DEFINE_string("output", "", "FILE.npz or FILE.parquet that is written")
_TOKENS = 64  # at which sentences are cut for data.max_length=auto, which belongs to a network that is trained


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)
    config = CONFIG.value
    settings.validate(config)
    write(config, local_path(_OUTPUT.value))


def write(config: settings.Config, path: Path) -> None:
    """Write the features of a config's data set. Raises UserError for bad input."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output={path}: must be FILE{' or FILE'.join(SUFFIXES)}")
    if config.data.folds is not None:
        raise UserError(f"config.data.folds={config.data.folds}: the file serves all folds; leave the option out")
    path.parent.mkdir(parents=True, exist_ok=True)  # fails now, not after minutes
    require_devices()
    if config.data.image_size == AUTO:  # the encoder sees the original pictures
        config.data.image_size = 32
    dataset = load_data(config.data)
    _log.info(dataset.summary)
    max_length = _TOKENS if config.data.max_length == AUTO else config.data.max_length
    encoder = make_encoder(config.encoder, dataset.kind, max_length=max_length, encoder_of_run=_encoder_of_run)
    features = features_of(encoder, dataset)
    write_features(path, dataset, features, encoder.record(features))
    print(f"{path}: {len(features)} examples, {features.shape[1]} features")


def write_features(path: Path, dataset: Dataset, features: np.ndarray, about: dict[str, Any]) -> None:
    """Write the features of a data set to an .npz or .parquet file.

    Args:
        path: of the file.
        dataset: the examples.
        features: of all of them, [N, D].
        about: the encoder.
    """
    splits = np.full(len(features), "train", "<U5")
    for name, indices in dataset.splits.items():
        splits[indices] = name
    ids, described = np.array(list(map(str, dataset.ids.tolist()))), json.dumps(about)
    if path.suffix.lower() == ".npz":
        labels, names = dataset.labels, np.array(dataset.class_names)
        arrays = {"ids": ids, "features": features.astype(np.float32), "labels": labels, "class_names": names}
        write_npz(path, **arrays, splits=splits, encoder=np.array(described))
        return
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.astype(np.float32).ravel()), features.shape[1])
    classes = [dataset.class_names[label] for label in dataset.labels]
    table = pa.table({"id": ids.tolist(), "features": vectors, "label": classes, "split": splits.tolist()})
    with atomic_path(path) as temporary:
        parquet.write_table(table.replace_schema_metadata({"encoder": described}), temporary)


def _encoder_of_run(workdir: Path, kind: str) -> Encoder:
    # By its name, because the room of finished runs is above this one; nothing imports a command.
    return importlib.import_module("rgjax.predict.run").encoder_of_run(workdir, kind)


def cli() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run_with_config(main, __doc__)


if __name__ == "__main__":
    cli()
