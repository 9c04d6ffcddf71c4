"""HAM10000, seven kinds of skin lesion (Tschandl et al. 2018), with the paper's settings.

    python -m rgjax.main --config=configs/ham10000.py[:METHOD] --config.data.manual_dir=DOWNLOAD

Splits keep the images of one lesion together; --config.data.split=stratified is the paper-like image-level split.
"""

from rgjax.config import method_config

HAM10000 = {"data.name": "ham10000", "data.image_size": 224, "data.split": "grouped"}


def get_config(method: str = "rg"):
    return method_config(method, HAM10000)
