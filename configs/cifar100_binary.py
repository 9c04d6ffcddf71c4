"""CIFAR-100, apple against the 99 other classes (the paper's Table 1).

Command:     python -m rgjax.main --config=configs/cifar100_binary.py[:METHOD]
Hardware:    not measured with these settings
Wall-clock:  not measured
Score:       not measured

--config.data.positive=bee and the like choose another class.
"""

from rgjax.config import binary_sweep, method_config


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
    yield from binary_sweep(range(300, 801, 100))
