"""One digit against the rest, on scikit-learn's bundled 1,797 images: a first look that needs no download.

python -m rgjax.main --config=configs/digits.py[:METHOD]
"""

from rgjax.config import ablations, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "digits",
            "data.positive": "8",
            "encoder.name": "projection",  # nothing to download
            "data.image_size": 32,
            "data.flip": False,  # a mirrored digit is no digit
            "train.epochs": 6,
            "train.batch_size": 64,
            "train.lr": 0.02,
            "deepsmote.epochs": 30,
            "deepsmote.batch_size": 64,
            "deepsmote.latent": 64,
        },
    )


def sweep():
    grid = {"regroup.rule": ("target",), "regroup.threshold": (50, 100, 150, 200, 250, 300)}
    yield from points(grid)
    yield from ablations(grid, variants=["random groups"])
