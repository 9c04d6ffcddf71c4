"""HAM10000, melanoma against the rest; --config.data.positive=bcc and so on for another class.

    python -m rgjax.main --config=configs/ham10000_binary.py[:METHOD] --config.data.manual_dir=DOWNLOAD
"""

from rgjax.config import method_config

HAM10000_BINARY = {
    "data.name": "ham10000",
    "data.image_size": 224,
    "data.split": "grouped",
    "data.positive": "mel",
}


def get_config(method: str = "rg"):
    return method_config(method, HAM10000_BINARY)
