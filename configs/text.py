"""Sentences of your own: a table text,label[,group][,split][,id] (.csv, .tsv, .jsonl), by fine-tuning BERT.

python -m rgjax.data.inspect TABLE
python -m rgjax.main --config=configs/text.py[:METHOD] --config.data.manual_dir=TABLE

A column split is the split, else rows of one group, or equal sentences, stay together; --config.data.split=stratified
and the like overrule that. A sentence is cut at data.max_length tokens. Training is as in phrasebank.py.
"""

from rgjax.config import TEXT_METHODS, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "text",
            "data.split": "auto",
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
    # Doubling covers classes of a hundred rows to some thousands; points that split nothing are as CE.
    grid = {"regroup.rule": ("ratio", "target"), "regroup.threshold": (50, 100, 200, 400, 800, 1600)}
    yield from points(grid, methods=TEXT_METHODS)
