"""EfficientNet-Lite in plain torch, eager, under the names of the published checkpoints."""

from collections.abc import Callable
from math import ceil

import torch
from torch import nn
from torch.nn import functional

from tests.bench.torch_resnet import sgd_steps

STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


class Same(nn.Conv2d):
    """Padded as by TensorFlow: what the windows lack, one more at the end."""

    def forward(self, x):
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
        if height == width and height % 2 == 0:
            return functional.conv2d(x, self.weight, None, stride, height // 2, 1, self.groups)
        return super().forward(functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, c_in, c_out, kernel, stride, expansion):
        super().__init__()
        inner = c_in * expansion
        if expansion != 1:
            self._expand_conv, self._bn0 = Same(c_in, inner, 1, bias=False), norm(inner)
        self._depthwise_conv = Same(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = norm(inner)
        self._project_conv, self._bn2 = Same(inner, c_out, 1, bias=False), norm(c_out)
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = functional.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = functional.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    def __init__(self, *, width: float = 1.0, depth: float = 1.0, classes: int = 1000):
        super().__init__()
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2, bias=False), norm(32)
        blocks, c_in = [], 32
        for stage, (count, kernel, stride, expansion, channels) in enumerate(STAGES):
            c_out = int(width * channels + 4) // 8 * 8
            for i in range(count if stage in (0, 6) else ceil(depth * count)):
                blocks.append(Block(c_in, c_out, kernel, 1 if i else stride, expansion))
                c_in = c_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = Same(c_in, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, classes)

    def features(self, x):
        x = functional.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)), inplace=True).mean(dim=(2, 3))

    def forward(self, x):
        return self._fc(self.features(x))


def features(*, size: int, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    model = EfficientNetLite().to(memory_format=torch.channels_last).eval()
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            model.features(images)

    return run


def train_steps(*, size: int, batch: int, steps: int) -> Callable[[], None]:
    """`steps` of SGD on one batch that is ready: no data work."""
    torch.manual_seed(0)
    model = EfficientNetLite(classes=10).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    return sgd_steps(model, images, steps)
