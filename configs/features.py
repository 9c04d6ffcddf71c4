"""Custom features: vectors with labels, from any tool or `python -m rgjax.encoders`; trains an MLP on them.

Command:     python -m rgjax.main --config=configs/features.py[:METHOD] --config.data.manual_dir=FILE
Hardware, wall-clock, score: depend on the data

FILE is an .npz file or a parquet table with features, labels and optionally ids, groups, splits and subclasses.

A split in the file is the split; otherwise the examples of a group stay together; otherwise examples are split at
random within each class. rgjax/data/README.md describes the formats.
"""

from rgjax.config import AUTO, CUSTOM_GRID, HEAD_TRAINING, RATIO, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "features",
            "data.split": "auto",
            "regroup.min_size": AUTO,
            **HEAD_TRAINING,
        },
    )


def sweep():
    yield from points(RATIO, CUSTOM_GRID)
