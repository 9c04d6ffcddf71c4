"""Custom images: a ResNet34 from scratch by the paper's recipe, 400 epochs.

Command:     python -m rgjax.main --config=configs/images_scratch.py[:METHOD] --config.data.manual_dir=DIR
Hardware, wall-clock, score: depend on the data; two CPU cores take hours for a thousand images

Formats and splits are those of configs/images.py. For less than some ten thousand images, configs/images_finetune.py
usually gives better scores in less time.
"""

from rgjax.config import AUTO, CUSTOM_GRID, RATIO, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "images",
            "data.image_size": 224,
            "data.split": "auto",
            "regroup.min_size": AUTO,
        },
    )


def sweep():
    yield from points(RATIO, CUSTOM_GRID)
