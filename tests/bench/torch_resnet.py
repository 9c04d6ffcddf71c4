"""ResNet34's training step in plain torch, eager, in torchvision's topology."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

STAGES = (3, 4, 6, 3)


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.relu, self.shortcut = nn.ReLU(inplace=True), nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


def resnet34(classes: int, stem: str) -> nn.Module:
    kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
    layers = [nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if stem == "imagenet":
        layers.append(nn.MaxPool2d(3, 2, 1))
    c_in = 64
    for stage, depth in enumerate(STAGES):
        for i in range(depth):
            layers.append(Block(c_in, 64 * 2**stage, 2 if stage and i == 0 else 1))
            c_in = 64 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, classes))


def train_steps(*, size: int, batch: int, stem: str, steps: int, memory_format: torch.memory_format) -> Callable:
    """`steps` of SGD on one batch that is ready: no data work."""
    torch.manual_seed(0)
    model = resnet34(10, stem).to(memory_format=memory_format).train()
    images = torch.randn(batch, 3, size, size).to(memory_format=memory_format)
    return sgd_steps(model, images, steps)


def sgd_steps(model: nn.Module, images: torch.Tensor, steps: int) -> Callable[[], None]:
    """`steps` of SGD with random labels of ten classes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    labels = torch.randint(10, (len(images),))

    def run():
        for _ in range(steps):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return run
