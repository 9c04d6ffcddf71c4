"""Record tests/models/checkpoints/: tiny random BERT and CLIP checkpoints as Hugging Face's libraries write them.

python tests/models/record_transformers.py torch      (torch 2.13.0, transformers 5.24.0; run this one first)
python tests/models/record_transformers.py flax      (transformers 4.57.6, the last with Flax; jax 0.10.2; flax 0.12.8)

The two need an environment each, since no transformers writes both forms; the tests need neither. "torch" writes
every folder but the two *_flax ones, and golden.npz with the outputs; "flax" converts bert and clip to
flax_model.msgpack and checks what its own models make of them against golden.npz.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("checkpoints")
GOLDEN = FOLDER / "golden.npz"

BERT = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 12,
    "hidden_act": "quick_gelu",
}
# Smaller than VISION, to keep all the files below 600 kB together: the patches of 16 alone take 768 weights a feature.
SMALL = VISION | {"hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
TEXT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 8,
    "projection_dim": 12,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}


def fresh(case):
    shutil.rmtree(FOLDER / case, ignore_errors=True)
    return FOLDER / case


def draw_parameters(model, seed):
    """Draw all parameters: the libraries start biases at 0 and norms at 1, which would hide a mix-up."""
    import torch

    rng = np.random.default_rng(seed)
    for name, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        drawn = rng.normal(size=shape)
        if name.endswith("bias"):
            drawn *= 0.2
        elif "norm" in name.lower():
            drawn = 1 + 0.2 * drawn
        elif "patch_embedding" in name or (len(shape) > 1 and "embeddings" not in name):  # not the looked-up tables
            drawn *= np.prod(shape[1:]) ** -0.5
        parameter.data = torch.from_numpy(np.asarray(drawn, np.float32))
    return model.eval()


def record_bert():
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(**BERT)
    model = draw_parameters(BertModel(config), 0)
    model.save_pretrained(fresh("bert"))
    model.save_pretrained(fresh("bert_sharded"), max_shard_size="30KB")

    masked = draw_parameters(BertForMaskedLM(config), 1)
    unmatched = masked.bert.load_state_dict(model.state_dict(), strict=False)
    assert not unmatched.missing_keys and all(name.startswith("pooler.") for name in unmatched.unexpected_keys)
    masked.save_pretrained(fresh("bert_mlm"))

    # The first checkpoints, bert-base-uncased among them, carry TensorFlow's names for the norms.
    legacy = {}
    for name, tensor in model.state_dict().items():
        new = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        legacy["bert." + new] = tensor.contiguous()
    fresh("bert_legacy").mkdir()
    save_file(legacy, FOLDER / "bert_legacy" / "model.safetensors")
    shutil.copy(FOLDER / "bert" / "config.json", FOLDER / "bert_legacy")

    rng = np.random.default_rng(2)
    lengths = np.array([12, 7, 1, 3], np.int32)
    real = np.arange(12) < lengths[:, None]
    ids = np.where(real, rng.integers(1, BERT["vocab_size"], real.shape), 0).astype(np.int32)

    # padding_idx makes torch drop the gradient of row 0, whatever it is. Taken away, row 0 has the true gradient, as
    # in JAX; it is 0 here all the same, for no real token has id 0 and masked positions do not reach the pooled output.
    words = model.embeddings.word_embeddings
    assert words.padding_idx == 0
    words.padding_idx = None
    out = model(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(real).long())
    (out.pooler_output**2).sum().backward()
    assert not words.weight.grad[0].any()
    return {
        "bert_ids": ids,
        "bert_lengths": lengths,
        "bert_hidden": out.last_hidden_state.detach().numpy(),
        "bert_pooled": out.pooler_output.detach().numpy(),
        "bert_grad_word": words.weight.grad.numpy(),
        "bert_grad_query0": model.encoder.layer[0].attention.self.query.weight.grad.numpy(),  # torch: [out, in]
    }


def record_clip():
    import torch
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPVisionConfig,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
    )

    # Rounded to sixteenths, so that the file compresses.
    pixels = (np.random.default_rng(3).normal(size=(3, 32, 32, 3)) * 16).round().astype(np.float32) / 16
    recorded = {"clip_pixels": pixels}
    nchw = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    models = {
        "clip": CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)),
        "clip_projection": CLIPVisionModelWithProjection(
            CLIPVisionConfig(**SMALL | {"hidden_act": "gelu", "patch_size": 16})
        ),
        "clip_vision": CLIPVisionModel(CLIPVisionConfig(**SMALL)),
    }
    for seed, (case, model) in enumerate(models.items(), 4):
        draw_parameters(model, seed).save_pretrained(fresh(case))
        tower = getattr(model, "vision_model", model)
        with torch.no_grad():
            out = tower(pixel_values=nchw)
            recorded[f"{case}_hidden"] = out.last_hidden_state.numpy()  # before post_layernorm
            recorded[f"{case}_pooled"] = out.pooler_output.numpy()
            if case != "clip_vision":  # not of unit length: CLIPModel only divides by the norm to compare
                recorded[f"{case}_embeds"] = model.visual_projection(out.pooler_output).numpy()
            if case == "clip_projection":
                whole = model(pixel_values=nchw)
                assert torch.equal(whole.image_embeds, torch.from_numpy(recorded[f"{case}_embeds"]))
                assert torch.equal(whole.last_hidden_state, out.last_hidden_state)
    return recorded


def record_torch():
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **record_bert(), **record_clip())


def record_flax():
    from transformers import FlaxBertModel, FlaxCLIPModel

    golden = np.load(GOLDEN)
    bert = FlaxBertModel.from_pretrained(FOLDER / "bert")
    real = (np.arange(12) < golden["bert_lengths"][:, None]).astype(np.int32)
    out = bert(golden["bert_ids"], attention_mask=real)
    np.testing.assert_allclose(out.last_hidden_state, golden["bert_hidden"], atol=1e-5)
    np.testing.assert_allclose(out.pooler_output, golden["bert_pooled"], atol=1e-5)
    bert.save_pretrained(fresh("bert_flax"))

    clip = FlaxCLIPModel.from_pretrained(FOLDER / "clip")
    embeds = clip.get_image_features(golden["clip_pixels"].transpose(0, 3, 1, 2))
    np.testing.assert_allclose(embeds, golden["clip_embeds"], atol=1e-5)
    clip.save_pretrained(fresh("clip_flax"))
    for case in ("bert_flax", "clip_flax"):
        assert json.loads((FOLDER / case / "config.json").read_text())["model_type"] == case[:4]


if __name__ == "__main__":
    {"torch": record_torch, "flax": record_flax}[sys.argv[1]]()
