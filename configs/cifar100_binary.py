"""CIFAR-100, one fine class (default: apple) against the 99 others; official test set.

    python -m rgjax.main --config=configs/cifar100_binary.py[:METHOD]
"""

from rgjax.config import method_config

CIFAR100_BINARY = {
    "data.name": "cifar100",
    "data.image_size": 32,
    "data.split": "official",
    "data.positive": "apple",
    "model.stem": "cifar",
}


def get_config(method: str = "rg"):
    return method_config(method, CIFAR100_BINARY)
