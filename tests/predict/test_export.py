"""An exported run gives the predictions of the run, without rgjax."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jax.export
import numpy as np
import pytest
from safetensors.numpy import load_file

from rgjax.data.pictures.decode import decode
from rgjax.errors import UserError
from rgjax.predict import __main__
from rgjax.predict.predictor import Predictor
from tests.support.finished import digits, digits_run, text_run
from tests.support.pictures import png16

SENTENCES = ["profit rose .", "w1 w2 w3 w4 w5 w6 flat", "fell"]
WITHOUT_RGJAX = "import runpy, sys; sys.modules['rgjax'] = None; sys.argv = ['example.py', sys.argv[1]]; " \
    "runpy.run_path('example.py', run_name='__main__')"  # fmt: skip


def exported(workdir, folder):
    assert __main__.main([f"--workdir={workdir}", f"--export={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    workdir = digits_run("la", trained=False, **{"loss.posthoc": True, "regroup.aggregate": "sum"})
    return workdir, exported(workdir, tmp_path_factory.mktemp("digits") / "export")


@pytest.fixture(scope="module")
def of_text(tmp_path_factory):
    workdir = text_run("ldam", trained=False)
    return workdir, exported(workdir, tmp_path_factory.mktemp("text") / "export")


def test_the_folder_of_a_run_is_refused(of_digits):
    workdir, _ = of_digits
    with pytest.raises(UserError, match="holds a run"):
        exported(workdir, workdir)


def program(folder):
    return jax.export.deserialize((folder / "model.stablehlo").read_bytes())


def test_the_manifest_describes_the_files(of_digits, of_text):
    for workdir, folder in (of_digits, of_text):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["sha256"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
        for name, sha in manifest["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha
        with np.load(workdir / "regrouping.npz") as file:
            assert manifest["class_names"] == file["class_names"].tolist()
            assert manifest["parent"] == file["parent"].tolist()
        outputs = [output["shape"] for output in manifest["outputs"]]
        assert outputs == [["b", len(manifest["class_names"])], ["b", len(manifest["parent"])]]
    assert json.loads((of_digits[1] / "manifest.json").read_text())["aggregate"] == "sum"


@pytest.mark.parametrize("count", [1, 7])
def test_the_program_for_images_takes_any_batch_size(count, of_digits):
    workdir, folder = of_digits
    images, predictor = digits().inputs[:count], Predictor.from_run(workdir)
    probabilities, logits = program(folder).call(load_file(folder / "parameters.safetensors"), images)
    np.testing.assert_allclose(logits, predictor.logits(images), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probabilities, predictor(images), rtol=1e-4, atol=1e-6)


def test_the_program_for_sentences_takes_any_length(of_text):
    from tokenizers import Tokenizer

    workdir, folder = of_text
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch([*SENTENCES, "profit rose " * 50])
    ids = np.array([row.ids for row in encoded], np.int32)
    lengths = np.array([sum(row.attention_mask) for row in encoded], np.int32)
    assert lengths.tolist() == [5, 9, 3, 20]
    probabilities, logits = program(folder).call(load_file(folder / "parameters.safetensors"), ids, lengths)
    predictor = Predictor.from_run(workdir)
    np.testing.assert_allclose(logits, predictor.logits([*SENTENCES, "profit rose " * 50]), rtol=1e-5, atol=1e-4)
    assert probabilities.shape == (4, 3)


def test_one_program_runs_on_all_platforms(of_digits, of_text):
    for _, folder in (of_digits, of_text):
        written = program(folder)
        assert written.platforms == ("cpu", "cuda", "tpu")
        assert set(re.findall(r"custom_call @(\w+)", written.mlir_module())) <= {"shape_assertion"}
        assert not written.disabled_safety_checks
    # Accelerators run XLA's convolution, CPUs run ours.
    assert "stablehlo.case" in program(of_digits[1]).mlir_module()
    assert "stablehlo.convolution" in program(of_digits[1]).mlir_module()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["images", "sentences"])
def test_the_example_runs_without_rgjax(kind, of_digits, of_text, tmp_path):
    workdir, folder = of_digits if kind == "images" else of_text
    argument = SENTENCES[1]
    if kind == "images":
        argument = str(tmp_path / "image.png")
        see_through = np.dstack([digits().inputs[3], np.full((16, 16), 100, np.uint8)])
        Path(argument).write_bytes(png16(see_through * np.uint16(16)))  # 12 bits
    process = subprocess.run([sys.executable, "-I", "-c", WITHOUT_RGJAX, argument], cwd=folder, capture_output=True,
                             text=True, timeout=300)  # fmt: skip
    assert process.returncode == 0, process.stderr
    rows = decode(Path(argument), 16)[None] if kind == "images" else [argument]
    predictor = Predictor.from_run(workdir)
    probabilities = json.loads(process.stdout.replace("'", '"'))
    assert tuple(probabilities) == predictor.run.class_names
    np.testing.assert_allclose(list(probabilities.values()), predictor(rows)[0], rtol=1e-4, atol=1e-6)
