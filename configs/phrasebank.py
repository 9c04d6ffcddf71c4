"""Financial PhraseBank (Malo et al. 2014), three sentiments: the paper's Table 3, by fine-tuning BERT.

python -m rgjax.main --config=configs/phrasebank.py[:METHOD] [--config.data.manual_dir=DOWNLOAD]

The paper is silent on how it fine-tunes; rate, batch, epochs and warm-up are the BERT paper's usual ones. Unlike
there the rate falls by a cosine, the decay touches all parameters, and gradients are not clipped.
"""

from rgjax.config import TEXT_METHODS, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "phrasebank",
            "data.split": "grouped",  # by sentence: a few come twice
            "model.name": "bert",
            "train.optimizer": "adamw",
            "train.lr": 2e-5,
            "train.weight_decay": 0.01,
            "train.batch_size": 32,
            "train.epochs": 4,
            "train.warmup_percent": 10.0,
        },
    )


def sweep():
    # The paper names no grid here; above 872 rows the neutral class alone is split.
    grid = {"regroup.rule": ("ratio", "target"), "regroup.threshold": (300, 600, 1000)}
    yield from points(grid, methods=TEXT_METHODS)
