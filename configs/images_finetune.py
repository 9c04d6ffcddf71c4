"""Custom images: fine-tunes a pretrained network, EfficientNet-Lite0 unless another is named.

Command:     python -m rgjax.main --config=configs/images_finetune.py[:METHOD] --config.data.manual_dir=DIR
             [--config.model.checkpoint=facebook/dinov2-small]
Hardware, wall-clock, score: depend on the data

model.checkpoint is a folder or a name on Hugging Face's hub. Images have the checkpoint's size, interpolation and
normalization; --config.data.image_size=112 makes a step four times cheaper than 224 pixels.

Formats and splits are those of configs/images.py.
"""

from rgjax.config import AUTO, CUSTOM_GRID, IMAGE_FINETUNING, RATIO, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "images",
            "data.split": "auto",
            "regroup.min_size": AUTO,
            **IMAGE_FINETUNING,
        },
    )


def sweep():
    yield from points(RATIO, CUSTOM_GRID)
