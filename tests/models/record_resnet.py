"""Record tests/models/resnet18_torch.npz: a narrow ResNet18 of torch's own layers, in torchvision's topology.

python tests/models/record_resnet.py        (needs torch, which the tests do not)
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)


def draw(shape, scale):
    return torch.from_numpy(rng.normal(0, scale, shape).astype(np.float32))


def pair(c_in, c_out, kernel, stride):
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    norm = nn.BatchNorm2d(c_out)
    drawn = draw((kernel, kernel, c_in, c_out), (2 / (kernel * kernel * c_in)) ** 0.5)
    conv.weight.data = drawn.permute(3, 2, 0, 1).contiguous()
    norm.weight.data, norm.bias.data = 1 + draw((c_out,), 0.1), draw((c_out,), 0.1)
    return nn.Sequential(conv, norm)


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.first, self.second = pair(c_in, c_out, 3, stride), pair(c_out, c_out, 3, 1)
        self.shortcut = pair(c_in, c_out, 1, stride) if stride != 1 or c_in != c_out else nn.Identity()

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


layers = [pair(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
c_in = 8
for stage in range(4):
    for i in range(2):
        layers.append(Block(c_in, 8 * 2**stage, 2 if stage and i == 0 else 1))
        c_in = 8 * 2**stage
body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
head = nn.Linear(64, 5)
head.weight.data, head.bias.data = draw((64, 5), 0.1).T.contiguous(), draw((5,), 0.1)

images = np.random.default_rng(1).normal(size=(4, 40, 40, 3)).astype(np.float32)
recorded = {"images": images}
with torch.no_grad():
    for name in ("train", "eval"):
        body.train(name == "train")
        recorded[name] = head(body(torch.from_numpy(images).permute(0, 3, 1, 2))).numpy()
np.savez_compressed(Path(__file__).with_name("resnet18_torch.npz"), **recorded)
