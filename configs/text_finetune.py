"""Custom text: fine-tunes a pretrained network, bert-base-uncased unless another is named.

Command:     python -m rgjax.main --config=configs/text_finetune.py[:METHOD] --config.data.manual_dir=TABLE
             [--config.model.checkpoint=distilbert-base-uncased]
Hardware, wall-clock, score: depend on the data

model.checkpoint is a folder or a name on Hugging Face's hub. Texts are cut at data.max_length tokens; auto covers 99 %
of the training texts, as far as the network reads.

Formats and splits are those of configs/text.py.
"""

from rgjax.config import AUTO, CUSTOM_GRID, RATIO, TEXT_FINETUNING, TEXT_METHODS, method_config, points


def get_config(method: str = "rg"):
    return method_config(
        method,
        {
            "data.name": "text",
            "data.split": "auto",
            "data.max_length": "auto",
            "regroup.min_size": AUTO,
            **TEXT_FINETUNING,
        },
    )


def sweep():
    yield from points(RATIO, CUSTOM_GRID, methods=TEXT_METHODS)
