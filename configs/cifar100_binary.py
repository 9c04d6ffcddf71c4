"""CIFAR-100, one fine class (apple) against the 99 others, on the official test set.

python -m rgjax.main --config=configs/cifar100_binary.py[:METHOD]
"""

from rgjax.config import ablations, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "cifar100",
            "data.image_size": 32,
            "data.split": "official",
            "data.positive": "apple",
            "model.stem": "cifar",
            "deepsmote.batch_size": 512,
        },
    )


def sweep():
    # On two classes the other rule, ratio, makes the same groups at every threshold.
    grid = {"regroup.rule": ("target",), "regroup.threshold": range(300, 801, 100)}
    yield from points(grid)
    yield from ablations(grid)
