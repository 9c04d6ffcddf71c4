"""Export a finished run to files that run without rgjax."""

import inspect
from importlib.metadata import version
from pathlib import Path

import jax
import jax.export
import numpy as np
from safetensors.numpy import save_file

from rgjax.data.pictures import pixels
from rgjax.data.pictures.decode import resampling
from rgjax.errors import UserError
from rgjax.predict.card import model_card
from rgjax.predict.onnx import write_onnx
from rgjax.predict.predictor import Predictor
from rgjax.predict.program import TOKENIZER, Program, program_of
from rgjax.storage.files import atomic_path, file_sha256, write_json

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, PARAMETERS, EXAMPLE, CARD = "model.stablehlo", "parameters.safetensors", "example.py", "MODEL_CARD.md"

_LOAD = """
import json, sys
import jax.export, numpy as np
from safetensors.numpy import load_file
{reads}
program = jax.export.deserialize(open("model.stablehlo", "rb").read())
{inputs}
probabilities, logits, *decided = program.call(load_file("parameters.safetensors"), {arguments})
names = json.load(open("manifest.json"))["class_names"]
print(dict(zip(names, np.asarray(probabilities)[0].tolist())))
if decided:
    calibrated, scores, tuned = map(np.asarray, decided)
    print("calibrated:", dict(zip(names, calibrated[0].tolist())))
    print("tuned class:", names[tuned[0]])
"""


def export(predictor: Predictor, folder: Path) -> list[Path]:
    """Export the predictor: its program for all `PLATFORMS`, and its parameters.

    Of a head on the features of an encoder, this is the head.

    Args:
        predictor: computes in float32.
        folder: where the files go.

    Returns:
        The paths of the files.

    Raises:
        UserError: if the folder holds a run or a checkpoint.
    """
    if (folder / "config.json").exists():
        raise UserError(f"--export={folder}: holds a run or a checkpoint, whose files it would replace; use another")
    program = program_of(predictor)
    spec = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in program.parameters.items()}
    exported = jax.export.export(jax.jit(program.call), platforms=PLATFORMS)(spec, *program.specs)
    text = bool(predictor.word_pieces)
    written = [folder / name for name in (PROGRAM, PARAMETERS, *([TOKENIZER] if text else []), EXAMPLE)]
    with atomic_path(folder / PROGRAM) as temporary:
        temporary.write_bytes(exported.serialize())
    with atomic_path(folder / PARAMETERS) as temporary:
        save_file(program.parameters, temporary)
    if predictor.word_pieces:
        with atomic_path(folder / TOKENIZER) as temporary:
            predictor.word_pieces.save(temporary)
    with atomic_path(folder / EXAMPLE) as temporary:
        temporary.write_text(_example(predictor))
    written += (onnx := write_onnx(program, folder, _examples(program)))
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(model_card(predictor, program, onnx=bool(onnx)), encoding="utf-8")
    write_json(folder / "manifest.json", _manifest(predictor, program, exported, [*written, folder / CARD]))
    return [*written, folder / CARD, folder / "manifest.json"]


def _examples(program: Program) -> list[np.ndarray]:
    """Three inputs for a comparison: noise, or tokens of three lengths."""
    rng, (first, *rest) = np.random.default_rng(0), program.specs
    if rest:
        return [rng.integers(0, 100, (3, 8), np.int32), np.array([8, 5, 3], np.int32)]
    shape = (3, *first.shape[1:])
    return [
        rng.integers(0, 256, shape, np.uint8) if first.dtype == np.uint8 else rng.normal(size=shape).astype(np.float32)
    ]


def _manifest(predictor: Predictor, program: Program, exported: jax.export.Exported, written: list[Path]) -> dict:
    run, decision = predictor.run, program.decision
    return {
        "class_names": run.class_names,
        "parent": run.regrouping.parent.tolist(),
        "aggregate": predictor.aggregate,
        "inputs": program.inputs,
        "outputs": program.outputs,
        "decision": decision and {"rule": decision.rule, **decision.as_json()},
        "platforms": exported.platforms,
        "calling_convention": exported.calling_convention_version,
        "versions": {name: version(name) for name in ("rgjax", "jax", "jaxlib", "flax")},
        "fingerprint": run.fingerprint,
        "data": run.data,
        "sha256": {path.name: file_sha256(path) for path in written},
    }


def _example(predictor: Predictor) -> str:
    size = predictor.run.config.data.image_size
    if predictor.run.encoder:
        inputs = 'features = np.load(sys.argv[1])["features"].astype(np.float32)'
        return _LOAD.format(reads="", inputs=inputs, arguments="features").lstrip()
    if predictor.run.kind == "images":
        reads, name = inspect.getsource(pixels), resampling(predictor.run.config.data.interpolation).name
        inputs = f"image = read_picture(sys.argv[1]).rgb.resize(({size}, {size}), Image.Resampling.{name})"
        return _LOAD.format(reads=reads, inputs=inputs, arguments="np.asarray(image)[None]").lstrip()
    reads = "from tokenizers import Tokenizer"
    inputs = 'ids = np.array([Tokenizer.from_file("tokenizer.json").encode(sys.argv[1]).ids], np.int32)'
    return _LOAD.format(reads=reads, inputs=inputs, arguments="ids, np.array([ids.shape[1]], np.int32)").lstrip()
