"""Folders laid out as public downloads: small ones of data sets and BERT, a CLIP tower of full size."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file


def write_ham(folder):
    """A folder laid out as the public download: 84 images of 42 lesions, the classes' sizes 24 to 6."""
    rng = np.random.default_rng(0)
    sizes = {"nv": 24, "mel": 16, "bkl": 14, "bcc": 10, "akiec": 8, "vasc": 6, "df": 6}
    rows = []
    for dx, size in sizes.items():
        for i in range(size):
            number = len(rows)
            path = folder / f"HAM10000_images_part_{1 + number % 2}" / f"ISIC_{number:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
            lesion = f"HAM_{dx}_{i // 2}"
            rows.append([lesion, path.stem, dx, "histo", "" if number == 3 else "80.0", "male", "scalp"])
    with open(folder / "HAM10000_metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"])
        writer.writerows(rows)
    return folder


def write_phrasebank(folder):
    """A folder with 120 short sentences whose second word tells their label: 72 neutral, 30 positive, 18 negative."""
    rng = np.random.default_rng(0)
    lines = []
    for label, word, count in (("neutral", "flat", 72), ("positive", "rose", 30), ("negative", "fell", 18)):
        for _ in range(count):
            rest = " ".join(f"w{i}" for i in rng.integers(0, 50, rng.integers(1, 9)))
            lines.append(f"profit {word} {rest} .@{label}")
    folder.mkdir()
    (folder / "Sentences_50Agree.txt").write_text("\n".join(rng.permutation(lines)))
    return folder


def write_tiny_bert(folder, positions=20):
    """A random BERT checkpoint with a vocabulary of 60 words, which reads up to so many tokens."""
    shutil.copytree(Path(__file__).parents[1] / "models" / "checkpoints" / "bert", folder)
    if positions != 20:
        config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
        [name] = [name for name in tensors if name.endswith("position_embeddings.weight")]
        tensors[name] = np.resize(tensors[name], (positions, tensors[name].shape[1]))
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "profit", "rose", "fell", "flat", "."]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"w{i}" for i in range(60 - len(words)))]))
    return folder


def write_clip(folder, layers=12):
    """A CLIP vision tower in the shape of openai/clip-vit-base-patch32, which has 12 layers; its weights are random."""
    width, rng, tensors = 768, np.random.default_rng(0), {}

    def draw(name, *shape, at=0.0):
        tensors[name] = (at + 0.02 * rng.standard_normal(shape, np.float32)).astype(np.float32)

    for name in (
        "pre_layrnorm",
        "post_layernorm",
        *(f"encoder.layers.{i}.layer_norm{j}" for i in range(layers) for j in (1, 2)),
    ):
        draw(f"vision_model.{name}.weight", width, at=1.0)
        draw(f"vision_model.{name}.bias", width)
    draw("vision_model.embeddings.class_embedding", width)
    draw("vision_model.embeddings.position_embedding.weight", 50, width)
    draw("vision_model.embeddings.patch_embedding.weight", width, 3, 32, 32)
    for i in range(layers):
        shapes = {"mlp.fc1": (3072, width), "mlp.fc2": (width, 3072)}
        shapes |= {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        for name, shape in shapes.items():
            draw(f"vision_model.encoder.layers.{i}.{name}.weight", *shape)
            draw(f"vision_model.encoder.layers.{i}.{name}.bias", shape[0])
    draw("visual_projection.weight", 512, width)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "clip", "vision_config": {"num_hidden_layers": layers}, "projection_dim": 512}
    (folder / "config.json").write_text(json.dumps(config))
