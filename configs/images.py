"""Custom images: a folder with one subfolder per class, or a table of paths.

Command:     python -m rgjax.data.inspect DIR
             python -m rgjax.main --config=configs/images.py[:METHOD] --config.data.manual_dir=DIR
Hardware, wall-clock, score: depend on the data

A table has the columns path,label[,group][,split]; --config.data.columns=path:file_name,label:class maps others.

Folders train/ and test/ (and val/), or a column split, define the split; otherwise the examples of a group stay
together; otherwise images are split at random within each class. --config.data.split=stratified and the like override
this. rgjax/data/README.md describes the formats.
"""

from rgjax.config import CUSTOM_MIN_SIZE, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "images",
            "data.image_size": 224,
            "data.split": "auto",
            "regroup.min_size": CUSTOM_MIN_SIZE,
        },
    )


def sweep():
    # The paper searches 200 to 700 examples; doubling covers classes from a hundred to some thousand examples. Points
    # that split no class equal CE.
    yield from points({"regroup.rule": ("ratio", "target"), "regroup.threshold": (50, 100, 200, 400, 800, 1600)})
