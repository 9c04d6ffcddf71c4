"""A program as ONNX, where the optional package jax2onnx can convert it."""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rgjax.errors import first_line
from rgjax.predict.program import Program
from rgjax.storage.files import atomic_path

_log = logging.getLogger(__name__)

MODEL = "model.onnx"
TOLERANCE = 1e-4  # between JAX and onnxruntime: of probabilities, and of logits relative to the largest
_PLATFORM = object()  # the number of the platform, in a traced program
_CALLS = ("jit", "pjit", "closed_call", "custom_vjp_call", "custom_jvp_call", "checkpoint", "remat2")


def write_onnx(program: Program, folder: Path, examples: Sequence[np.ndarray]) -> list[Path]:
    """Write the program, with its parameters, as ONNX, if it can be converted.

    What onnxruntime computes of the examples must agree with JAX to `TOLERANCE`. A note says why there is no file.

    Args:
        program: to be written.
        folder: for the file.
        examples: an array for each input.

    Returns:
        The path of the file; nothing without one.
    """
    path = folder / MODEL
    path.unlink(missing_ok=True)  # of an earlier export
    if missing := [name for name in ("jax2onnx", "onnxruntime") if not find_spec(name)]:
        _log.info(
            f"note: no {MODEL}, as {' and '.join(missing)} cannot be imported; `uv sync --extra onnx` installs them"
        )
        return []
    _log.info(f"converting to {MODEL}; loading jax2onnx takes a minute")
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their warnings are of shapes that onnxruntime infers
    try:
        model = _converted(program)
        if not (difference := _difference(program, model, examples)) <= TOLERANCE:  # nor NaN
            raise ValueError(f"onnxruntime differs from JAX by {difference:.1g}")
    except Exception as error:  # of any kind, as jax2onnx and onnxruntime document none
        _log.info(f"note: no {MODEL}, as jax2onnx cannot convert this network: {first_line(error)}")
        return []
    with atomic_path(path) as temporary:
        temporary.write_bytes(model)
    return [path]


def _converted(program: Program) -> bytes:
    import jax2onnx  # type: ignore[import-not-found]  # optional, and its import takes seconds

    parameters = jax.tree.map(jnp.asarray, program.parameters)  # tracers cannot index arrays of NumPy

    def call(*inputs: Any) -> tuple[Any, ...]:
        return program.call(parameters, *inputs)

    names = [[one["name"].replace(" ", "_") for one in described] for described in (program.inputs, program.outputs)]
    model = jax2onnx.to_onnx(
        portable(call, program.specs),
        program.specs,
        model_name="rgjax",
        input_names=names[0],
        output_names=names[1],
    )
    return model.SerializeToString()


def portable(call: Callable[..., tuple[Any, ...]], specs: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., tuple]:
    """A function of arrays like the specs, in the operations that jax2onnx knows.

    Its calls are inlined, and it does on every platform what `lax.platform_dependent` calls the default.
    """
    closed = jax.make_jaxpr(call)(*specs)
    # Traced before jax2onnx replaces functions of jax.numpy, some of which it replaces for constant shapes alone.
    flat = jax.make_jaxpr(lambda *inputs: _evaluate(closed.jaxpr, closed.consts, inputs))(*specs)
    return lambda *inputs: tuple(_evaluate(flat.jaxpr, flat.consts, inputs))


def _evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr for inputs, as `portable` describes."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        arguments = [read(atom) for atom in equation.invars]
        if name == "platform_index":
            results: Any = [_PLATFORM]
        elif any(argument is _PLATFORM for argument in arguments) and name != "cond":
            results = [_PLATFORM]  # converted, clamped
        elif name == "cond" and arguments[0] is _PLATFORM:
            branch = params["branches"][-1]  # the default one, of XLA's operations; the others are for one platform
            results = _evaluate(branch.jaxpr, branch.consts, arguments[1:])
        elif name in _CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            inner, constants = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            results = _evaluate(inner, constants, arguments)
        elif name == "reduce_window_max" and len(params["window_dimensions"]) == 4:
            shape = {key: params[key] for key in ("window_dimensions", "window_strides", "padding")}
            results = [_max_by_axis(*arguments, **shape)]
        elif name == "pad" and all(min(low, high) >= 0 == inner for low, high, inner in params["padding_config"]):
            results = [_concatenated_pad(arguments[0], arguments[1], params["padding_config"])]
        else:
            results = equation.primitive.bind(*arguments, **params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _max_by_axis(
    x: jax.Array, window_dimensions: Sequence[int], window_strides: Sequence[int], padding: Any
) -> jax.Array:
    """Maxima over windows of images [b, H, W, C], one axis after the other.

    onnxruntime has windows over three axes at most.
    """
    for axis in (1, 2):
        x = jnp.moveaxis(x, axis, 1)
        size, stride, pads = window_dimensions[axis], window_strides[axis], (padding[0], padding[axis], padding[3])
        flat, rest = x.reshape(*x.shape[:2], -1), x.shape[2:]
        lowest = np.array(-np.inf, x.dtype)
        flat = jax.lax.reduce_window(flat, lowest, jax.lax.max, (1, size, 1), (1, stride, 1), pads)
        x = jnp.moveaxis(flat.reshape(*flat.shape[:2], *rest), 1, axis)
    return x


def _concatenated_pad(x: jax.Array, value: Any, padding_config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Constants before and after an array, by concatenation.

    jax2onnx cannot pad arrays of symbolic shape.
    """
    for axis, (low, high, _) in enumerate(padding_config):
        before, after = (
            jnp.full((*x.shape[:axis], count, *x.shape[axis + 1 :]), value, x.dtype) for count in (low, high)
        )
        x = jnp.concatenate([part for part, count in ((before, low), (x, 1), (after, high)) if count], axis=axis)
    return x


def _difference(program: Program, model: bytes, examples: Sequence[np.ndarray]) -> float:
    """The largest difference between onnxruntime and JAX, relative above 1."""
    import onnxruntime  # type: ignore[import-not-found]  # optional

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are of constants that it removes
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = dict(zip((one.name for one in session.get_inputs()), examples, strict=True))
    expected = map(np.asarray, jax.jit(program.call)(program.parameters, *examples))
    pairs = zip(session.run(None, inputs), expected, strict=True)
    # A tie between tuned classes may fall otherwise; their scores are compared.
    differences = [np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in pairs if b.dtype == np.float32]
    return float(np.max(differences))
