"""Whole-size networks against torch on the same random weights; skipped where torch or transformers is not installed.

    uv run --with torch --with "transformers>=5" pytest tests/models/test_torch_parity.py -n 0

Four hundred million weights pass through memory and a temporary folder.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.models.backbone import Options
from rgjax.models.bert import Bert, BertClassifier, bert_config
from rgjax.models.families import open_pretrained
from rgjax.models.packing import mean_tokens, pack
from rgjax.models.pretrained import Checkpoint

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TOLERANCE = 1e-5


def saved(model, folder):
    """A checkpoint of `model`, whose biases and norms are moved off their defaults so that mistakes show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    return Checkpoint(str(folder), ways_out="another")


def test_bert_base(tmp_path):
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig())
    checkpoint = saved(model, tmp_path)
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 65, 8, np.int32)
    ids = np.where(np.arange(64) < lengths[:, None], rng.integers(1, 30522, (8, 64)), 0).astype(np.int32)
    mask = torch.tensor(np.arange(64) < lengths[:, None]).long()
    with torch.no_grad():
        theirs = model(torch.tensor(ids).long(), attention_mask=mask)
    tensors = checkpoint.tensors()
    ours = BertClassifier(Bert(tensors, bert_config(checkpoint)), tensors, 3, rng=rng)
    packed = pack(ids, lengths, int(lengths.sum()))
    hidden = ours.bert(packed)
    means = np.stack([h[:n].mean(axis=0) for h, n in zip(theirs.last_hidden_state.numpy(), lengths, strict=True)])
    inside = np.arange(64) < lengths[:, None]
    np.testing.assert_allclose(hidden, theirs.last_hidden_state.numpy()[inside], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(mean_tokens(hidden, packed), means, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(ours.features(packed), theirs.pooler_output.numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 32},
        {"patch_size": 16},
        {
            "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "projection_dim": 768,
        },
    ],
    ids=["B/32", "B/16", "L/14"],
)  # fmt: skip
def test_clip(changes, tmp_path):
    torch.manual_seed(0)
    model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**changes))
    checkpoint = saved(model, tmp_path)
    pixels = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(pixels.transpose(0, 3, 1, 2).copy())).image_embeds.numpy()
    ours = open_pretrained(checkpoint).build().features(jnp.asarray(pixels))
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: transformers.ViTModel(transformers.ViTConfig()), 384),
        (
            lambda: transformers.Dinov2WithRegistersModel(
                transformers.Dinov2WithRegistersConfig(
                    hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
                )
            ),
            224,
        ),
        (lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig()), 256),
    ],
    ids=["ViT-B/16", "DINOv2-S/14 with registers", "SigLIP-B/16"],
)
def test_vision_transformer_at_another_size(make, size, tmp_path):
    torch.manual_seed(0)
    model = make()
    checkpoint = saved(model, tmp_path)
    pixels = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype(np.float32)
    images, always = torch.tensor(pixels.transpose(0, 3, 1, 2).copy()), model.config.model_type.startswith("dinov2")
    with torch.no_grad():
        theirs = model(images) if always else model(images, interpolate_pos_encoding=True)
    pooled = theirs.pooler_output if "siglip" in model.config.model_type else theirs.last_hidden_state[:, 0]
    ours = open_pretrained(checkpoint).build(Options(image_size=size)).features(jnp.asarray(pixels))
    np.testing.assert_allclose(ours, pooled.numpy(), atol=TOLERANCE, rtol=0)
