"""Record tests/models/text/: tiny random checkpoints of text networks, and what transformers makes of them.

python tests/models/record_text.py      (torch 2.15.0, transformers 5.24.0)

A folder for each family; golden.npz has their tokens, hidden states, and gradients of the sum of their squared means.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from record_transformers import draw_parameters

FOLDER = Path(__file__).with_name("text")
LENGTHS = np.array([140, 33, 1, 6], np.int32)  # MPNet's last bucket begins at a distance of 91
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
ROBERTA = SIZES | {"max_position_embeddings": 150, "type_vocab_size": 1, "pad_token_id": 1}
DISTILBERT = {
    "vocab_size": 40,
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 20,
    "max_position_embeddings": 150,
}
MODERNBERT = SIZES | {
    "num_hidden_layers": 4,
    "intermediate_size": 12,
    "local_attention": 16,
    "global_attn_every_n_layers": 3,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 1),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
}

# Some with a head, whose tensors then have a prefix.
MODELS = {
    "distilbert": lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTILBERT)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**ROBERTA)),
    "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**ROBERTA | {"pad_token_id": 3})),
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**SIZES, max_position_embeddings=150)),
    "modernbert": lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**MODERNBERT, attn_implementation="eager")),
}
# A matrix of the first layer, whose gradient is recorded.
MATRICES = {
    "distilbert": "transformer.layer.0.ffn.lin1.weight",
    "roberta": "encoder.layer.0.intermediate.dense.weight",
    "xlm-roberta": "encoder.layer.0.intermediate.dense.weight",
    "mpnet": "encoder.relative_attention_bias.weight",
    "modernbert": "layers.0.mlp.Wi.weight",
}


def record(name, seed):
    model = draw_parameters(MODELS[name](), seed)
    model.save_pretrained(FOLDER / name)
    network = model.base_model
    inside = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    ids = np.random.default_rng(seed).integers(4, 40, inside.shape)
    padded = np.where(inside, ids, network.config.pad_token_id)
    mask = torch.tensor(inside)
    hidden = network(torch.tensor(padded), attention_mask=mask.long()).last_hidden_state
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    (means**2).sum().backward()
    return {
        f"{name}_ids": np.where(inside, ids, 0).astype(np.int32),
        f"{name}_hidden": hidden.detach().numpy()[inside],
        f"{name}_grad_words": network.get_input_embeddings().weight.grad.numpy(),
        f"{name}_grad_matrix": dict(network.named_parameters())[MATRICES[name]].grad.numpy(),
    }


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    arrays = {"lengths": LENGTHS}
    for seed, name in enumerate(MODELS):
        arrays |= record(name, seed)
    np.savez_compressed(FOLDER / "golden.npz", **arrays)
