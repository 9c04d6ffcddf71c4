"""Record how torch fine-tunes a small network: layer decay, no decay of biases, clipped gradients.

torch 2.15.0 (CPU) wrote habits_torch.npz:

    python tests/training/record_habits.py
"""

from pathlib import Path

import numpy as np
import torch

STEPS, CLIP, RATE, DECAY, LAYER_DECAY = 5, 0.1, 0.05, 0.3, 0.5
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8),
}


class Network(torch.nn.Module):
    """Below the layers, two layers, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Linear(5, 4)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x)


def main():
    torch.manual_seed(0)
    first = Network()
    x, labels = torch.randn(STEPS, 8, 5), torch.randint(0, 3, (STEPS, 8))
    arrays = {"x": x, "labels": labels} | {f"first.{name}": value for name, value in first.state_dict().items()}
    for name, make in OPTIMIZERS.items():
        network = Network()
        network.load_state_dict(first.state_dict())
        groups = []
        for depth, layer in enumerate((network.stem, *network.blocks, network.head)):
            rate = RATE * LAYER_DECAY ** (3 - depth)
            groups.append({"params": [layer.weight], "lr": rate, "weight_decay": DECAY})
            groups.append({"params": [layer.bias], "lr": rate, "weight_decay": 0.0})
        optimizer = make(groups)
        for step in range(STEPS):
            loss = torch.nn.functional.cross_entropy(network(x[step]), labels[step])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
        arrays |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    path = Path(__file__).with_name("habits_torch.npz")
    np.savez_compressed(path, **{name: value.numpy() for name, value in arrays.items()})


if __name__ == "__main__":
    main()
