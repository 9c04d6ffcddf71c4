"""HAM10000, melanoma against the rest; another class by --config.data.positive=bcc and the like.

python -m rgjax.main --config=configs/ham10000_binary.py[:METHOD] --config.data.manual_dir=DOWNLOAD
"""

from rgjax.config import ablations, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "ham10000",
            "data.image_size": 224,
            "data.split": "grouped",
            "data.positive": "mel",
        },
    )


def sweep():
    # On two classes the other rule, ratio, makes the same groups at every threshold.
    grid = {"regroup.rule": ("target",), "regroup.threshold": range(250, 501, 50)}
    yield from points(grid)
    yield from ablations(grid)
