"""The whole paper: Tables 1 to 3 and the ablations.

Command:     python -m rgjax.sweep --config=configs/paper.py --config.data.manual_dir=DOWNLOAD --workdir=DIR
Hardware:    not measured; --dry-run estimates the cost on one of this machine's devices
Wall-clock:  not measured (654 runs, less those of equal groups)
Score:       not measured

Table 1 is on two classes, Table 2 on HAM10000, Table 3 on Financial PhraseBank. DOWNLOAD holds HAM10000; the other two
data sets are downloaded unless they are there too. The ablations are part of the two binary studies: other groups
(figure 8 a, b), each loss with and without RG (c), max against sum (d).
"""

from pathlib import Path

from rgjax.command import load_file
from rgjax.config import METHODS, method_config

STUDIES = {
    "cifar100_binary.py": METHODS,
    "ham10000_binary.py": METHODS,
    "ham10000.py": METHODS,
    "phrasebank.py": ("ce", "wce", "focal", "ldam", "la", "ros", "rg", "rg_wce"),  # the rows of Table 3
}


def get_config(method: str = "rg"):
    """The config to which each study adds its settings.

    For a single run, pass the config file of its study instead.
    """
    return method_config(method, {})


def sweep():
    for name, methods in STUDIES.items():
        for point in load_file(str(Path(__file__).with_name(name))).sweep():
            if point["method"] in methods:
                yield {"config": name, **point}
