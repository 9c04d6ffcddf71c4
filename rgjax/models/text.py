"""Text networks like BERT: DistilBERT, RoBERTa, XLM-RoBERTa and MPNet.

Sanh et al. 2019; Liu et al. 2019; Conneau et al. 2020; Song et al. 2020.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rgjax.errors import UserError
from rgjax.models.backbone import Family, Options
from rgjax.models.bert import BERT_DEFAULTS, Bert, Layout
from rgjax.models.modernbert import MODERNBERT
from rgjax.models.pooling import sentence_settings
from rgjax.models.pretrained import Checkpoint, Tensors, settings
from rgjax.models.transformer import BERT_LAYER, LayerNames, checked

_DISTILBERT_LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    norm1="sa_layer_norm",
    mlp1="ffn.lin1",
    mlp2="ffn.lin2",
    norm2="output_layer_norm",
)
_MPNET_LAYER = BERT_LAYER._replace(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    norm1="attention.LayerNorm",
)
_LAYOUTS: Mapping[str, Layout] = {
    "bert": Layout(),
    "roberta": Layout(),
    "xlm-roberta": Layout(),
    "distilbert": Layout(layers="transformer.layer", layer=_DISTILBERT_LAYER, types=False),
    "mpnet": Layout(layer=_MPNET_LAYER, types=False, relative="encoder.relative_attention_bias.weight"),
}
# Defaults of config.json that differ from BERT's.
_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "roberta": {"vocab_size": 50265},
    "distilbert": {"num_hidden_layers": 6},
    "mpnet": {"vocab_size": 30527, "relative_attention_num_buckets": 32},
}
# DistilBERT's names of settings.
_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}


def _settings(checkpoint: Checkpoint, family: str) -> dict[str, Any]:
    """The settings of a checkpoint under BERT's names, with its folder's pooling."""
    values = checkpoint.json("config.json")
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"checkpoint {checkpoint.name}: config.json has position_embedding_type="
            f"{values['position_embedding_type']!r}; only absolute positions are read"
        )
    if family == "distilbert":  # it has no setting for the epsilon of its norms
        values = {_NAMES.get(name, name): value for name, value in values.items()} | {"layer_norm_eps": 1e-12}
    config = checked(settings(values, BERT_DEFAULTS | _DEFAULTS.get(family, {}), checkpoint.name), checkpoint)
    if family in ("roberta", "xlm-roberta", "mpnet"):  # whose positions begin after that of padding
        padding = 1 if family == "mpnet" else values.get("pad_token_id", 1)
        if not isinstance(padding, int) or not 0 <= padding < config["max_position_embeddings"] - 1:
            raise UserError(f"checkpoint {checkpoint.name}: config.json has pad_token_id={padding!r}")
        config["first_position"] = padding + 1
        config["max_position_embeddings"] -= padding + 1
    if config.get("relative_attention_num_buckets", 32) < 32:
        raise UserError(f"checkpoint {checkpoint.name}: config.json has relative_attention_num_buckets below 32")
    return config | {"model_type": family, **sentence_settings(checkpoint)}


def _build(tensors: Tensors, settings: dict[str, Any], options: Options, layout: Layout) -> Bert:
    how = {"dropout": options.dropout, "unroll": options.unroll, "dtype": options.dtype}
    return Bert(tensors, settings, layout, **how)


# By the `model_type` in config.json.
TEXT: Mapping[str, Family] = {
    name: Family("sentences", partial(_settings, family=name), partial(_build, layout=layout))
    for name, layout in _LAYOUTS.items()
} | {"modernbert": MODERNBERT}
