"""A finished run as one function of arrays, which exports write in their formats."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from rgjax.data.pictures.decode import resampling
from rgjax.decision import Decision
from rgjax.errors import UserError
from rgjax.models.tokenizer import Tokens
from rgjax.predict.predictor import Predictor
from rgjax.regroup import aggregate

_log = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"


class Program(NamedTuple):
    """What a run computes, in float32.

    Attributes:
        call: `(parameters, *inputs) -> outputs`, traceable.
        parameters: by name.
        specs: of the inputs, with symbolic sizes: b inputs, and t tokens in each.
        inputs: a description of each input: name, shape, dtype and preprocessing.
        outputs: a description of each output: name, shape, dtype, and meaning where the name does not say it.
        decision: that the last three outputs follow; None if the run is of an older version, which has none of them.
    """

    call: Callable[..., tuple[Any, ...]]
    parameters: dict[str, np.ndarray]
    specs: list[jax.ShapeDtypeStruct]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    decision: Decision | None


def program_of(predictor: Predictor) -> Program:
    """The program of a predictor.

    Raises ValueError unless it computes in float32: in bfloat16, attention on a GPU is a kernel that only GPUs have.
    """
    if predictor.run.config.model.dtype != "float32":
        raise ValueError("the predictor must compute in float32 to run on all platforms")
    names, leaves, structure = _flatten(predictor.run.params)
    decision, text = _decision(predictor), bool(predictor.word_pieces)

    def call(parameters: dict[str, Any], *inputs: Any) -> tuple[Any, ...]:
        batch = Tokens(*inputs) if text else inputs[0]
        outputs = predictor.forward(jax.tree.unflatten(structure, [parameters[name] for name in names]), batch)
        if decision is None:
            return outputs.probabilities, outputs.logits
        classes = aggregate(outputs.logits, predictor.run.regrouping.parent, predictor.aggregate)
        scores = jax.nn.log_softmax(classes) + jnp.asarray(decision.offsets, jnp.float32)[None]
        biases = jnp.asarray(decision.biases, jnp.float32)[None]
        calibrated = jax.nn.softmax(classes / jnp.float32(decision.temperature) + biases)
        return outputs.probabilities, outputs.logits, calibrated, scores, jnp.argmax(scores, axis=1).astype(jnp.int32)

    parameters = dict(zip(names, leaves, strict=True))
    classes, groups = len(predictor.run.class_names), predictor.run.regrouping.num_pseudo_classes
    outputs = _describe_outputs(classes, groups)[: 5 if decision else 2]
    return Program(call, parameters, _specs(predictor), _describe_inputs(predictor), outputs, decision)


def _flatten(tree: Any) -> tuple[list[str], list[np.ndarray], Any]:
    """The names, values and tree structure of a network's parameters."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path[1:], simple=True, separator=".") for path, _ in paths]
    if len(set(names)) < len(names):
        raise ValueError("a parameter and a batch statistic have the same name")
    return names, [np.ascontiguousarray(leaf) for _, leaf in paths], structure


def _decision(predictor: Predictor) -> Decision | None:
    """The run's decision; None, with a message, if it has none."""
    try:
        return predictor.decision
    except UserError as error:
        _log.info(f"note: exported without tuned classes and calibrated probabilities: {error}")
        return None


def _specs(predictor: Predictor) -> list[jax.ShapeDtypeStruct]:
    """Symbolic shapes of the inputs.

    Images [b, S, S, 3], features [b, D], or tokens [b, t] and their lengths [b].
    """
    config = predictor.run.config
    if predictor.run.encoder or predictor.run.kind == "images":
        (b,) = jax.export.symbolic_shape("b")
        if predictor.run.encoder:
            return [jax.ShapeDtypeStruct((b, predictor.run.width), jnp.float32)]
        return [jax.ShapeDtypeStruct((b, config.data.image_size, config.data.image_size, 3), jnp.uint8)]
    b, t = jax.export.symbolic_shape("b, t", constraints=[f"t <= {config.data.max_length}"])
    return [jax.ShapeDtypeStruct((b, t), jnp.int32), jax.ShapeDtypeStruct((b,), jnp.int32)]


def _describe_inputs(predictor: Predictor) -> list[dict]:
    config = predictor.run.config
    size, longest = config.data.image_size, config.data.max_length
    if predictor.run.encoder:
        how = "those of the encoder of the run, as `python -m rgjax.encoders` writes them; not standardized"
        return [{"name": "features", "shape": ["b", predictor.run.width], "dtype": "float32", "preprocessing": how}]
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


def _describe_outputs(classes: int, groups: int) -> list[dict]:
    by_class, scores = ["b", classes], "log-probability of each class plus its offset in `decision`"
    return [
        {"name": "class probabilities", "shape": by_class, "dtype": "float32"},
        {"name": "pseudo-class logits", "shape": ["b", groups], "dtype": "float32"},
        {"name": "calibrated class probabilities", "shape": by_class, "dtype": "float32",
         "meaning": "at the temperature and biases in `decision`"},
        {"name": "tuned class scores", "shape": by_class, "dtype": "float32", "meaning": scores},
        {"name": "tuned class", "shape": ["b"], "dtype": "int32",
         "meaning": "that of the highest tuned score, as an index of `class_names`"},
    ]  # fmt: skip
