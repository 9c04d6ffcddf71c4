"""Record tests/models/cnn/: tiny random ResNets in each naming, and what EfficientNet-Lite0 makes of drawn weights.

python -m tests.models.record_cnn      (torch 2.15.0, torchvision 0.29.2, timm 1.0.31, transformers 5.24.0)

The tests need none of these. Each folder is a checkpoint; golden.npz has the features, in training their gradients by
the images and by one kernel, and running statistics after one step of it.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("cnn")
SIZES = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values of a tensor by its name: positive for scales and variances, small for what is added."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 4:
        return values * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    return 0.1 * values + np.float32(name.endswith(("weight", "var")))


def images(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((2, size, size, 3)).astype(np.float32)


def draw(model):
    import torch

    state = model.state_dict()
    model.load_state_dict(
        {k: torch.from_numpy(drawn(k, tuple(v.shape))) if v.is_floating_point() else v for k, v in state.items()}
    )
    return model


def outcome(model, features, kernel, norm, size):
    """`features` maps the model and images to [B, D]; `kernel` and `norm` are names in the model."""
    import torch

    x = torch.from_numpy(images(size)).permute(0, 3, 1, 2).requires_grad_()
    with torch.no_grad():
        evaluated = features(model.eval(), x)
    trained = features(model.train(), x)
    dy = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(trained.shape)).astype(np.float32))
    (trained * dy).sum().backward()
    return {
        "eval": evaluated.numpy(),
        "train": trained.detach().numpy(),
        "dx": x.grad[0].permute(1, 2, 0).numpy(),
        "dw": model.get_parameter(kernel).grad.permute(2, 3, 1, 0).numpy(),
        "mean": model.get_buffer(f"{norm}.running_mean").numpy(),
        "var": model.get_buffer(f"{norm}.running_var").numpy(),
    }


def torchvision_resnet(block):
    """torchvision's ResNet with fewer channels than its constructor offers."""
    from torch import nn
    from torchvision.models import resnet

    model = resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=3)
    model.inplanes = 8
    model.conv1, model.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    for stage, depth in enumerate(SIZES["depths"]):
        layer = model._make_layer(getattr(resnet, block), 4 + 2 * stage, depth, stride=2 if stage else 1)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Identity()
    return draw(model)


def timm_resnet(block):
    from timm.models import resnet

    model = resnet.ResNet(getattr(resnet, block), (1, 2, 1, 1), num_classes=3, channels=(4, 6, 8, 10))
    return draw(model)


def transformers_resnet(**changes):
    from transformers import ResNetConfig, ResNetForImageClassification

    return draw(ResNetForImageClassification(ResNetConfig(**SIZES | changes, num_labels=3)))


def main():
    import torch
    from safetensors.torch import save_file

    from tests.bench.torch_efficientnet import EfficientNetLite

    torch.manual_seed(0)
    shutil.rmtree(FOLDER, ignore_errors=True)
    golden = {}
    for block in ("BasicBlock", "Bottleneck"):
        case, model = f"torchvision_{block}", torchvision_resnet(block)
        (FOLDER / case).mkdir(parents=True)
        save_file(model.state_dict(), FOLDER / case / "model.safetensors")
        golden[case] = outcome(model, lambda model, x: model(x), "layer2.0.conv2.weight", "layer2.0.bn2", 37)
        case, model = f"timm_{block}", timm_resnet(block)
        (FOLDER / case).mkdir()
        save_file(model.state_dict(), FOLDER / case / "model.safetensors")
        architecture = "resnet18" if block == "BasicBlock" else "resnet50"
        (FOLDER / case / "config.json").write_text(json.dumps({"architecture": architecture}))
        golden[case] = outcome(
            model,
            lambda model, x: model.global_pool(model.forward_features(x)),
            "layer2.0.conv2.weight",
            "layer2.0.bn2",
            37,
        )
    for case, changes in {
        "transformers_basic": {"layer_type": "basic"},
        "transformers_bottleneck": {"layer_type": "bottleneck"},
        # Three stages, or the last maps would be one pixel, and the gradient of their normalization ill-conditioned.
        "transformers_strides": {
            **{"downsample_in_first_stage": True, "downsample_in_bottleneck": True},
            **{"depths": [1, 2, 1], "hidden_sizes": [8, 12, 16]},
        },
    }.items():
        model = transformers_resnet(**changes)
        model.save_pretrained(FOLDER / case)
        where = "resnet.encoder.stages.1.layers.0.layer.1"
        golden[case] = outcome(
            model,
            lambda model, x: model.resnet(x).pooler_output.flatten(1),
            f"{where}.convolution.weight",
            f"{where}.normalization",
            37,
        )
    golden["lite0"] = outcome(
        draw(EfficientNetLite()), EfficientNetLite.features, "_blocks.1._depthwise_conv.weight", "_blocks.1._bn1", 33
    )
    arrays = {f"{case}/{name}": value for case, values in golden.items() for name, value in values.items()}
    np.savez_compressed(FOLDER / "golden.npz", **arrays)


if __name__ == "__main__":
    main()
