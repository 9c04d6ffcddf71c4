"""HAM10000, seven kinds of skin lesion (Tschandl et al. 2018), with the paper's settings.

python -m rgjax.main --config=configs/ham10000.py[:METHOD] --config.data.manual_dir=DOWNLOAD

The images of one lesion stay together in a split; --config.data.split=stratified splits by single image, as
the paper's splits seem to; --config.data.split=official takes the test set of the ISIC challenge 2018, where the
download holds it, and splits HAM10000 by lesion into training and validation.
"""

from rgjax.config import method_config, points


def get_config(method: str = "rg"):
    return method_config(method, {"data.name": "ham10000", "data.image_size": 224, "data.split": "grouped"})


def sweep():
    yield from points({"regroup.rule": ("ratio", "target"), "regroup.threshold": range(200, 701, 100)})
