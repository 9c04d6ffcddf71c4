"""HAM10000, melanoma against the rest (the paper's Table 1).

Command:     python -m rgjax.main --config=configs/ham10000_binary.py[:METHOD] --config.data.manual_dir=DOWNLOAD
Hardware:    not measured
Wall-clock:  not measured
Score:       not measured

--config.data.positive=bcc and the like choose another class.
"""

from rgjax.config import binary_sweep, method_config


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
    yield from binary_sweep(range(250, 501, 50))
