"""Custom images: a head on the features of a pretrained network, in minutes.

Command:     python -m rgjax.data.inspect DIR
             python -m rgjax.main --config=configs/images.py[:METHOD] --config.data.manual_dir=DIR
Hardware, wall-clock, score: depend on the data

DIR has a folder of images per class, or it is a table with the columns path,label[,group][,split][,subclass];
--config.data.columns=path:file_name,label:class maps others. The network is CLIP, or EfficientNet-Lite0 (rgjax's extra
"lite") where the Hugging Face hub is out of reach; --config.encoder.name=pretrained with --config.encoder.checkpoint
takes another. Its features are computed once for all methods and seeds.

configs/images_finetune.py trains the pretrained network itself, configs/images_scratch.py a ResNet34 from scratch.

Folders train/ and test/ (and val/), or a column split, define the split; otherwise the examples of a group stay
together; otherwise images are split at random within each class. --config.data.split=stratified and the like override
this. rgjax/data/README.md describes the formats.
"""

from rgjax.config import AUTO, CUSTOM_GRID, HEAD_TRAINING, RATIO, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "images",
            "data.image_size": 224,
            "data.split": "auto",
            "regroup.min_size": AUTO,
            **HEAD_TRAINING,
        },
    )


def sweep():
    yield from points(RATIO, CUSTOM_GRID)
