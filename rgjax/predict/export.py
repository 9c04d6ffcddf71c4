"""A finished run as files that JAX alone can run: the network's program, its parameters and what they mean."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from rgjax.errors import UserError
from rgjax.models.tokenizer import Tokens
from rgjax.predict.predictor import Predictor
from rgjax.storage.files import atomic_path, write_json

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, PARAMETERS, TOKENIZER, EXAMPLE = "model.stablehlo", "parameters.safetensors", "tokenizer.json", "example.py"

_LOAD = """
import json, sys
import jax.export, numpy as np
from safetensors.numpy import load_file
{reads}
program = jax.export.deserialize(open("model.stablehlo", "rb").read())
{inputs}
probabilities, logits = program.call(load_file("parameters.safetensors"), {arguments})
print(dict(zip(json.load(open("manifest.json"))["class_names"], np.asarray(probabilities)[0].tolist())))
"""


def export(predictor: Predictor, folder: Path) -> list[Path]:
    """Write the predictor's run into a folder: a program for all of `PLATFORMS` and any number of rows, by jax.export,
    the parameters, manifest.json and an example. Returns what was written.

    Raises UserError for the folder of a run. The predictor must compute in float32: in bfloat16 a GPU's attention would
    be a kernel that only GPUs have.
    """
    if (folder / "config.json").exists():
        raise UserError(f"--export={folder} holds a run or a checkpoint, whose files it would replace: name another")
    if predictor.run.config.model.dtype != "float32":
        raise ValueError("only what computes in float32 runs everywhere")
    names, leaves, structure = _named(predictor.run.params)
    text = predictor.run.kind == "sentences"

    def call(parameters, *inputs):
        batch = Tokens(*inputs) if text else inputs[0]
        found = predictor.forward(jax.tree.unflatten(structure, [parameters[name] for name in names]), batch)
        return found.probabilities, found.logits

    parameters = dict(zip(names, leaves, strict=True))
    outline = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters)
    exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(outline, *_inputs(predictor))
    written = [folder / name for name in (PROGRAM, PARAMETERS, *([TOKENIZER] if text else []), EXAMPLE)]
    with atomic_path(folder / PROGRAM) as temporary:
        temporary.write_bytes(exported.serialize())
    with atomic_path(folder / PARAMETERS) as temporary:
        save_file(parameters, temporary)
    if predictor.word_pieces:
        with atomic_path(folder / TOKENIZER) as temporary:
            predictor.word_pieces.save(temporary)
    with atomic_path(folder / EXAMPLE) as temporary:
        temporary.write_text(_example(predictor))
    write_json(folder / "manifest.json", _manifest(predictor, exported, written))
    return [*written, folder / "manifest.json"]


def _named(tree) -> tuple[list[str], list[np.ndarray], Any]:
    """The names, the values and the structure of a network's parameters."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path[1:], simple=True, separator=".") for path, _ in paths]
    if len(set(names)) < len(names):
        raise ValueError("parameters and batch statistics have a name in common")
    return names, [np.ascontiguousarray(leaf) for _, leaf in paths], structure


def _inputs(predictor: Predictor) -> list[jax.ShapeDtypeStruct]:
    """The shapes of what the program reads; b rows, and t tokens of the longest sentence."""
    config = predictor.run.config
    if predictor.run.kind == "images":
        (b,) = jax.export.symbolic_shape("b")
        return [jax.ShapeDtypeStruct((b, config.data.image_size, config.data.image_size, 3), jnp.uint8)]
    b, t = jax.export.symbolic_shape("b, t", constraints=[f"t <= {config.data.max_length}"])
    return [jax.ShapeDtypeStruct((b, t), jnp.int32), jax.ShapeDtypeStruct((b,), jnp.int32)]


def _manifest(predictor: Predictor, exported: jax.export.Exported, written: list[Path]) -> dict:
    run = predictor.run
    classes, groups = len(run.class_names), run.regrouping.num_pseudo_classes
    return {
        "class_names": run.class_names,
        "parent": run.regrouping.parent.tolist(),
        "aggregate": predictor.aggregate,
        "inputs": _described_inputs(predictor),
        "outputs": [
            {"name": "class probabilities", "shape": ["b", classes], "dtype": "float32"},
            {"name": "pseudo-class logits", "shape": ["b", groups], "dtype": "float32"},
        ],
        "platforms": exported.platforms,
        "calling_convention": exported.calling_convention_version,
        "versions": {name: version(name) for name in ("rgjax", "jax", "jaxlib", "flax")},
        "fingerprint": run.fingerprint,
        "data": run.data,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written},
    }


def _described_inputs(predictor: Predictor) -> list[dict]:
    config = predictor.run.config
    size, longest = config.data.image_size, config.data.max_length
    if predictor.run.kind == "images":
        how = "RGB, as example.py makes it: turned as EXIF says, transparency before white, resized bilinearly"
        return [{"name": "images", "shape": ["b", size, size, 3], "dtype": "uint8", "preprocessing": how}]
    how = f"{TOKENIZER}, which cuts at {longest} tokens; shorter rows end in zeros"
    return [
        {"name": "token ids", "shape": ["b", "t"], "dtype": "int32", "preprocessing": how},
        {"name": "lengths", "shape": ["b"], "dtype": "int32", "preprocessing": "tokens of each row"},
    ]


# What `rgjax.data.decode` does, and a test holds to it.
_READ_IMAGE = """
image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
if image.mode.startswith("I"):  # 16-bit gray
    image = Image.fromarray(((np.asarray(image).astype(int).clip(0, 65535) + 128) // 257).astype(np.uint8))
if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
image = image.convert("RGB").resize(({size}, {size}), Image.Resampling.BILINEAR)
"""


def _example(predictor: Predictor) -> str:
    size = predictor.run.config.data.image_size
    if predictor.run.kind == "images":
        reads = "from PIL import Image, ImageOps"
        inputs = _READ_IMAGE.format(size=size).strip()
        return _LOAD.format(reads=reads, inputs=inputs, arguments="np.asarray(image)[None]").lstrip()
    reads = "from tokenizers import Tokenizer"
    inputs = 'ids = np.array([Tokenizer.from_file("tokenizer.json").encode(sys.argv[1]).ids], np.int32)'
    return _LOAD.format(reads=reads, inputs=inputs, arguments="ids, np.array([ids.shape[1]], np.int32)").lstrip()
