"""Custom text: a head on the features of a pretrained network, in minutes.

Command:     python -m rgjax.data.inspect TABLE
             python -m rgjax.main --config=configs/text.py[:METHOD] --config.data.manual_dir=TABLE
Hardware, wall-clock, score: depend on the data

The table (.csv, .tsv, .jsonl, .json, .parquet) has the columns text,label[,group][,split][,id][,subclass];
--config.data.columns=text:sentence,label:sentiment maps others. Tables train.csv, test.csv and optionally val.csv in
one folder are the split. --config.encoder.name=pretrained with --config.encoder.checkpoint takes another network. Its
features are computed once for all methods and seeds.

configs/text_finetune.py trains a pretrained network itself.

A column split also defines the split; otherwise the examples of a group, or equal sentences, stay together.
--config.data.split=stratified and the like override this. Texts are cut at data.max_length tokens; auto covers 99 % of
the training texts, as far as the network reads. rgjax/data/README.md describes the formats.
"""

from rgjax.config import AUTO, CUSTOM_GRID, HEAD_TRAINING, RATIO, TEXT_METHODS, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "text",
            "data.split": "auto",
            "data.max_length": "auto",
            "regroup.min_size": AUTO,
            **HEAD_TRAINING,
        },
    )


def sweep():
    yield from points(RATIO, CUSTOM_GRID, methods=TEXT_METHODS)
