"""Export a finished run to files that JAX runs without rgjax."""

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from rgjax.data.pictures import pixels
from rgjax.data.pictures.decode import resampling
from rgjax.errors import UserError
from rgjax.models.tokenizer import Tokens
from rgjax.predict.predictor import Predictor
from rgjax.storage.files import atomic_path, file_sha256, write_json

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
    """Export the predictor: its program for all `PLATFORMS`, and its parameters.

    Args:
        predictor: computes in float32; in bfloat16, attention on a GPU would be a kernel that only GPUs have.
        folder: where the files go.

    Returns:
        The paths of the files.

    Raises:
        UserError: if the folder holds a run or a checkpoint, and for a head on features.
    """
    if (folder / "config.json").exists():
        raise UserError(f"--export={folder}: holds a run or a checkpoint, whose files it would replace; use another")
    if predictor.run.encoder:
        raise UserError(
            f"--export={folder}: the run is a head on the features of another network, which is not exported; export a "
            "run of configs/images_finetune.py or text_finetune.py"
        )
    if predictor.run.config.model.dtype != "float32":
        raise ValueError("the predictor must compute in float32 to run on all platforms")
    names, leaves, structure = _flatten(predictor.run.params)
    text = predictor.run.kind == "sentences"

    def call(parameters, *inputs):
        batch = Tokens(*inputs) if text else inputs[0]
        outputs = predictor.forward(jax.tree.unflatten(structure, [parameters[name] for name in names]), batch)
        return outputs.probabilities, outputs.logits

    parameters = dict(zip(names, leaves, strict=True))
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters)
    exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(spec, *_inputs_spec(predictor))
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


def _flatten(tree) -> tuple[list[str], list[np.ndarray], Any]:
    """The names, values and tree structure of a network's parameters."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path[1:], simple=True, separator=".") for path, _ in paths]
    if len(set(names)) < len(names):
        raise ValueError("a parameter and a batch statistic have the same name")
    return names, [np.ascontiguousarray(leaf) for _, leaf in paths], structure


def _inputs_spec(predictor: Predictor) -> list[jax.ShapeDtypeStruct]:
    """Symbolic shapes of the inputs: images [b, S, S, 3], or tokens [b, t] and [b]."""
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
        "inputs": _describe_inputs(predictor),
        "outputs": [
            {"name": "class probabilities", "shape": ["b", classes], "dtype": "float32"},
            {"name": "pseudo-class logits", "shape": ["b", groups], "dtype": "float32"},
        ],
        "platforms": exported.platforms,
        "calling_convention": exported.calling_convention_version,
        "versions": {name: version(name) for name in ("rgjax", "jax", "jaxlib", "flax")},
        "fingerprint": run.fingerprint,
        "data": run.data,
        "sha256": {path.name: file_sha256(path) for path in written},
    }


def _describe_inputs(predictor: Predictor) -> list[dict]:
    config = predictor.run.config
    size, longest = config.data.image_size, config.data.max_length
    if predictor.run.kind == "images":
        name = resampling(config.data.interpolation).name
        filtering = "bilinearly" if name == "BILINEAR" else f"by Pillow's {name} filter"
        how = f"RGB as example.py reads it: upright, 8 bits, transparency over white, resized {filtering}"
        return [{"name": "images", "shape": ["b", size, size, 3], "dtype": "uint8", "preprocessing": how}]
    how = f"{TOKENIZER}, which cuts at {longest} tokens; pad shorter rows with zeros"
    return [
        {"name": "token ids", "shape": ["b", "t"], "dtype": "int32", "preprocessing": how},
        {"name": "lengths", "shape": ["b"], "dtype": "int32", "preprocessing": "number of tokens in each row"},
    ]


def _example(predictor: Predictor) -> str:
    size = predictor.run.config.data.image_size
    if predictor.run.kind == "images":
        reads, name = inspect.getsource(pixels), resampling(predictor.run.config.data.interpolation).name
        inputs = f"image = read_picture(sys.argv[1]).rgb.resize(({size}, {size}), Image.Resampling.{name})"
        return _LOAD.format(reads=reads, inputs=inputs, arguments="np.asarray(image)[None]").lstrip()
    reads = "from tokenizers import Tokenizer"
    inputs = 'ids = np.array([Tokenizer.from_file("tokenizer.json").encode(sys.argv[1]).ids], np.int32)'
    return _LOAD.format(reads=reads, inputs=inputs, arguments="ids, np.array([ids.shape[1]], np.int32)").lstrip()
