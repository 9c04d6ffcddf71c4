"""The same training steps in PyTorch on the same device: channels_last, automatic mixed precision, compiled."""

import time
from collections.abc import Callable
from importlib.util import find_spec

from tests.accelerator.figures import Figures, speed
from tests.bench.machine import torch_is_ready

CLASSES = 90


def resnet224(figures: Figures) -> None:
    _resnet(figures, 224)


def resnet32(figures: Figures) -> None:
    _resnet(figures, 32)


def bert(figures: Figures) -> None:
    """All sentences have 64 tokens, as torch pads them."""
    if not (find_spec("transformers") and torch_is_ready()):
        return figures.add("torch", installed=None)
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tiny = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    config = BertConfig(**(tiny if figures.tiny else {}), num_labels=CLASSES, attn_implementation="sdpa")
    for batch in (2,) if figures.tiny else (32, 128):
        ids = torch.randint(1, config.vocab_size, (batch, 64), device=_device())

        def make(batch=batch, ids=ids):
            model = BertForSequenceClassification(config).to(_device()).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=_on_gpu())
            return model, optimizer, lambda network: network(input_ids=ids).logits

        _measure(figures, f"BERT-base, {batch} sentences of 64 tokens", batch, make)


def _resnet(figures: Figures, size: int) -> None:
    if not torch_is_ready():
        return figures.add("torch", installed=None)
    import torch

    from tests.bench.torch_resnet import resnet34

    size, batch = (32, 4) if figures.tiny else (size, 256)
    layout = torch.channels_last
    images = torch.randn(batch, 3, size, size, device=_device()).contiguous(memory_format=layout)

    def make():
        model = resnet34(CLASSES, "imagenet").to(_device(), memory_format=layout).train()
        rates = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
        return model, torch.optim.SGD(model.parameters(), **rates, fused=_on_gpu()), lambda network: network(images)

    _measure(figures, f"ResNet34, {size} pixels, batch {batch}", batch, make)


def _measure(figures: Figures, case: str, batch: int, make: Callable) -> None:
    """Speed of the steps of `make() -> (model, optimizer, logits of a network)`, eager and compiled.

    A way of compiling that torch refuses on this machine leaves its reason.
    """
    import torch

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    labels = torch.randint(CLASSES, (batch,), device=_device())
    ways: dict[str, dict | None] = {"eager": None}
    if not figures.tiny:
        ways |= {"compiled": {}, "compiled, CUDA graphs": {"mode": "reduce-overhead"}}
    for way, options in ways.items():
        started = time.perf_counter()
        torch.manual_seed(0)
        model, optimizer, logits = make()
        network = model if options is None else torch.compile(model, **options)

        def run(steps, network=network, optimizer=optimizer, logits=logits):
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(_device(), torch.bfloat16):
                    loss = torch.nn.functional.cross_entropy(logits(network), labels)
                loss.backward()
                optimizer.step()
            if _on_gpu():
                torch.cuda.synchronize()

        try:
            run(1)
            figures.add(f"{case}, {way}", first_step_s=time.perf_counter() - started)
            figures.add(f"{case}, {way}", **speed(run, batch, tiny=figures.tiny))
        except Exception as error:  # of torch's compiler
            figures.add(f"{case}, {way}", error=f"{type(error).__name__}: {str(error)[:200]}")


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _device() -> str:
    return "cuda" if _on_gpu() else "cpu"
