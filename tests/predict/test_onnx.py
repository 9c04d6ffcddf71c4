"""Exports as ONNX: what is converted computes the same, and what cannot be converted is noted."""

import jax
import numpy as np
import pytest

from rgjax.predict import onnx
from rgjax.predict.export import export
from rgjax.predict.predictor import Predictor
from rgjax.predict.program import program_of
from tests.support.finished import digits, digits_run, text_run

SENTENCES = ["profit rose .", "w1 w2 w3 w4 w5 w6 flat", "fell"]


@pytest.fixture(scope="module")
def of_digits():
    return Predictor.from_run(digits_run(trained=False), dtype="float32")


def read(predictor, count):
    if predictor.run.kind == "images":
        return [digits().inputs[:count]]
    tokens, _ = predictor.word_pieces.read(np.array(SENTENCES[:count]))
    return [tokens.ids, tokens.lengths]


@pytest.mark.parametrize("kind", ["images", pytest.param("sentences", marks=pytest.mark.long)])
def test_the_portable_program_is_the_program_without_platforms(kind, of_digits):
    predictor = of_digits if kind == "images" else Predictor.from_run(text_run(trained=False), dtype="float32")
    program, inputs = program_of(predictor), read(predictor, 3)
    parameters = jax.tree.map(jax.numpy.asarray, program.parameters)
    function = onnx.portable(lambda *inputs: program.call(parameters, *inputs), inputs)
    jaxpr = jax.make_jaxpr(function)(*inputs)
    assert not {"platform_index", "cond", "jit", "custom_vjp_call"} & {eqn.primitive.name for eqn in jaxpr.eqns}
    assert "platform_index" in str(jax.make_jaxpr(program.call)(parameters, *inputs)) or kind == "sentences"
    outputs = jax.jit(function)(*inputs)
    for output, expected in zip(outputs, jax.jit(program.call)(parameters, *inputs), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reason", ["missing", "refused", "different"])
def test_without_a_conversion_the_rest_is_exported(reason, of_digits, tmp_path, caplog, monkeypatch):
    def convert(program):
        if reason == "refused":
            raise NotImplementedError("no plugin for 'sort'\nmore lines")
        return b"model"

    monkeypatch.setattr(onnx, "find_spec", lambda name: None if reason == "missing" else object())
    monkeypatch.setattr(onnx, "_converted", convert)
    monkeypatch.setattr(onnx, "_difference", lambda *_: 0.3)
    (tmp_path / "model.onnx").write_text("of an earlier export")
    names = {path.name for path in export(of_digits, tmp_path)}
    assert names == {path.name for path in tmp_path.iterdir()} and "model.stablehlo" in names
    [note] = [line for line in caplog.messages if "note: no model.onnx" in line]
    expected = {"missing": "--extra onnx", "refused": "no plugin for 'sort'", "different": "differs from JAX by 0.3"}
    assert expected[reason] in note and "\n" not in note


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["images", "sentences"])
def test_onnxruntime_agrees_with_jax(kind, of_digits, tmp_path):
    """With `uv run --extra onnx`; loading jax2onnx takes a minute."""
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    predictor = of_digits if kind == "images" else Predictor.from_run(text_run("ldam", trained=False), dtype="float32")
    assert (tmp_path / "model.onnx") in export(predictor, tmp_path)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    for count in (1, 3):
        inputs = read(predictor, count)
        outputs = session.run(None, dict(zip([one.name for one in session.get_inputs()], inputs, strict=True)))
        expected = predictor.outputs(inputs[0] if kind == "images" else SENTENCES[:count])
        np.testing.assert_allclose(outputs[0], expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(outputs[1], expected.logits, atol=1e-4)


def test_padding_becomes_concatenation():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    widths = ((0, 0), (1, 2), (0, 1), (0, 0))
    function = onnx.portable(lambda x: (jax.numpy.pad(x, widths, constant_values=7),), [x])
    assert " pad[" not in str(jax.make_jaxpr(function)(x))
    np.testing.assert_array_equal(function(x)[0], np.pad(x, widths, constant_values=7))
