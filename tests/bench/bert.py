"""A fine-tuning step of MiniLM-L6's shape against Hugging Face's, both with random weights."""

import importlib.util
from dataclasses import dataclass

import numpy as np

from rgjax.models.bert import Bert, BertClassifier
from rgjax.models.packing import prepare_tokens
from rgjax.models.tokenizer import Tokens
from rgjax.training.feed import HostData
from tests.bench.case import Case
from tests.bench.machine import torch_is_ready
from tests.bench.program import train_program

CONFIG = {
    "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip
BATCH, LENGTH, STEPS, CLASSES = 32, 64, 2, 3


@dataclass(frozen=True)
class RandomTensors:
    """Takes the place of a checkpoint's tensors."""

    rng: np.random.Generator
    stack: tuple[int, ...] = ()

    def at(self, name: str) -> "RandomTensors":
        return self

    below = at

    def layers(self, name: str, count: int) -> "RandomTensors":
        return RandomTensors(self.rng, (count,))

    def has(self, name: str) -> bool:
        return True

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = 0.02 * self.rng.standard_normal((*self.stack, *shape), np.float32)
        return drawn + np.float32(name == "weight")  # a norm's scale


def bert_step() -> Case:
    """All sentences are of full length: packing, which gains where they are not, gains nothing here."""
    rng = np.random.default_rng(0)
    rows = 8 * BATCH
    tokens = Tokens(rng.integers(1, CONFIG["vocab_size"], (rows, LENGTH), np.int32), np.full(rows, LENGTH, np.int32))
    tensors = RandomTensors(rng)
    model = BertClassifier(Bert(tensors, CONFIG, dropout=0.1), tensors, CLASSES, rng=rng)

    def prepare(tokens, key):
        return prepare_tokens(tokens, key, budget=BATCH * LENGTH)

    ours = train_program(model, prepare, HostData(tokens), {}, optimizer="adamw", batch=BATCH, steps=STEPS)
    facts = {"per_call": STEPS, "batch": BATCH, "length": LENGTH, "precision": "float32", "flops": flops()}
    return Case(ours, torch_steps(), facts)


def flops() -> float:
    """Of a training step: three times the products of the forward pass, attention's included."""
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    token = 2 * (4 * width * width + 2 * width * inner) + 4 * LENGTH * width
    return 3.0 * CONFIG["num_hidden_layers"] * token * BATCH * LENGTH


def torch_steps():
    """Steps of Hugging Face's network on one batch that is ready, by either of its attentions and updates."""
    if not (importlib.util.find_spec("transformers") and torch_is_ready()):
        return None
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    ids = torch.randint(1, CONFIG["vocab_size"], (BATCH, LENGTH))
    labels = torch.randint(CLASSES, (BATCH,))

    def steps(attention: str, fused: bool):
        torch.manual_seed(0)
        config = BertConfig(**CONFIG, num_labels=CLASSES, attn_implementation=attention)  # its dropout is 0.1
        model = BertForSequenceClassification(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=fused)

        def run():
            for _ in range(STEPS):
                optimizer.zero_grad()
                model(input_ids=ids, labels=labels).loss.backward()
                optimizer.step()

        return run

    return {
        "transformers, sdpa": steps("sdpa", False),
        "transformers, eager": steps("eager", False),
        "transformers, sdpa, fused AdamW": steps("sdpa", True),
    }
