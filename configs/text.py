"""Custom text: a table of sentences (.csv, .tsv, .jsonl, .json, .parquet), by fine-tuning BERT.

Command:     python -m rgjax.data.inspect TABLE
             python -m rgjax.main --config=configs/text.py[:METHOD] --config.data.manual_dir=TABLE
Hardware, wall-clock, score: depend on the data

The table has the columns text,label[,group][,split][,id]; --config.data.columns=text:sentence,label:sentiment maps
others. Tables train.csv, test.csv and optionally val.csv in one folder are the split.

A column split also defines the split; otherwise the examples of a group, or equal sentences, stay together.
--config.data.split=stratified and the like override this. Texts are cut at data.max_length tokens; auto covers 99 % of
the training texts, up to the 512 tokens that bert-base-uncased reads.
rgjax/data/README.md describes the formats.
"""

from rgjax.config import BERT_FINETUNING, CUSTOM_MIN_SIZE, TEXT_METHODS, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "text",
            "data.split": "auto",
            "data.max_length": "auto",
            "regroup.min_size": CUSTOM_MIN_SIZE,
            **BERT_FINETUNING,
        },
    )


def sweep():
    # Doubling covers classes from a hundred to some thousand examples. Points that split no class equal CE.
    grid = {"regroup.rule": ("ratio", "target"), "regroup.threshold": (50, 100, 200, 400, 800, 1600)}
    yield from points(grid, methods=TEXT_METHODS)
