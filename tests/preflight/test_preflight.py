"""Preflight: what is read from a compiled program, what follows from a config alone, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rgjax import build
from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.preflight import hlo, targets, thunks
from rgjax.preflight.estimate import Figures, bound_of, largest_batch
from rgjax.preflight.flops import step_flops
from rgjax.preflight.program import inputs_of, outline_of

ROOT = Path(__file__).parents[1]

# A prologue, the training loop, and in its body a loop of 3 trips, in the form of XLA's own text.
HLO = """\
HloModule jit_run_steps, is_scheduled=true

%fused_slice (p0: f32[1000,8], p1: s32[]) -> f32[2,8] {
  %p0 = f32[1000,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  %taken = f32[2,8]{1,0} dynamic-slice(%p0, %p1, %zero.1), dynamic_slice_sizes={2,8}
  %turned = f32[8,2]{0,1} transpose(%taken), dimensions={1,0}
  ROOT %out.1 = f32[2,8]{1,0} bitcast(%turned)
}

%inner_body (arg.2: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %arg.2 = (s32[], f32[2,8]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%arg.2), index=0
  %x.2 = f32[2,8]{1,0} get-tuple-element(%arg.2), index=1
  %copy.2 = f32[2,8]{1,0} copy(%x.2)
  %near = f32[2,8]{1,0:T(8,128)S(1)} copy(%x.2)
  ROOT %tuple.2 = (s32[], f32[2,8]{1,0}) tuple(%i.2, %copy.2)
}

%inner_condition (arg.3: (s32[], f32[2,8])) -> pred[] {
  %arg.3 = (s32[], f32[2,8]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

%body (arg.4: (s32[], f32[2,8], f32[1000,8], bf16[2,4,4,8])) -> (s32[], f32[2,8], f32[1000,8], bf16[2,4,4,8]) {
  %arg.4 = (s32[], f32[2,8]{1,0}, f32[1000,8]{1,0}, /*index=3*/bf16[2,4,4,8]{3,2,1,0}) parameter(0)
  %i.4 = s32[] get-tuple-element(%arg.4), index=0
  %data = f32[1000,8]{1,0} get-tuple-element(%arg.4), index=2
  %x.4 = bf16[2,4,4,8]{3,2,1,0} get-tuple-element(%arg.4), index=3
  %batch = f32[2,8]{1,0} fusion(%data, %i.4), kind=kLoop, calls=%fused_slice
  %start = (s32[], f32[2,8]{1,0}) tuple(%i.4, %batch)
  %while.7 = (s32[], f32[2,8]{1,0}) while(%start), condition=%inner_condition, body=%inner_body, \
backend_config={"known_trip_count":{"n":"3"}}
  %y = f32[2,8]{1,0} get-tuple-element(%while.7), index=1
  %summed = f32[2,8]{1,0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%inner_condition
  %conv.1 = (bf16[2,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%x.4, %x.4), window={size=3x3 pad=1_1x1_1}, \
custom_call_target="__cudnn$convForward"
  %conv.2 = (f32[2,8]{1,0}, u8[0]{0}) custom-call(%summed, %y), window={size=3x3 pad=1_1x1_1}, \
custom_call_target="__cudnn$convForward"
  %told = () custom-call(%y), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %tuple.4 = (s32[], f32[2,8]{1,0}, f32[1000,8]{1,0}, bf16[2,4,4,8]{3,2,1,0}) tuple(%i.4, %y, %data, %x.4)
}

ENTRY %main (a: f32[1000,8], b: bf16[2,4,4,8]) -> f32[2,8] {
  %a = f32[1000,8]{1,0} parameter(0)
  %b = bf16[2,4,4,8]{3,2,1,0} parameter(1)
  %sorted = f32[1000,8]{1,0} copy(%a)
  %zero = s32[] constant(0)
  %none = f32[2,8]{1,0} constant({...})
  %first = (s32[], f32[2,8]{1,0}, f32[1000,8]{1,0}, bf16[2,4,4,8]{3,2,1,0}) tuple(%zero, %none, %sorted, %b)
  %while.9 = (s32[], f32[2,8]{1,0}, f32[1000,8]{1,0}, bf16[2,4,4,8]{3,2,1,0}) while(%first), \
condition=%inner_condition, body=%body
  ROOT %last = f32[2,8]{1,0} get-tuple-element(%while.9), index=1
}
"""

THUNKS = """\
000: kCommandBuffer [source       | next=092 (1)]
    001: kCopy         [source        | sink        ] kCopy
002: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    003: kCustomKernel [source | sink] wrapped_compare grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source        | next=143 (1) ]
        004: kCustomKernel [source        | sink         ] loop_multiply_fusion grid: [1, 1, 1]
        005: kCopy         [source        | sink         ] kCopy
    006: kConvolution   [prev=000 (1)  | next=000 (1) ] kConvolution
    007: kWhile         [prev=000 (1) | next=000 (1)]
condition:
        008: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1]
      body:
        009: kCustomKernel [source       | next=030 (1)] loop_add_fusion grid: [1, 1, 1]
        000: kCommandBuffer [source | sink]
            010: kKernel       [source        | next=0
            011: kGemm         [prev=076 (1)  | next=0
    012: kDeviceToHostCopy [source | sink]
013: kCopy [source | sink]
"""
NAMES = """
thunk_metadata { thunk_info { profile_annotation: "while.9"
    thunk_id: 2 } thunk_kind: "kWhile" }
thunk_metadata { thunk_info { profile_annotation: "while.7"
    thunk_id: 7 } thunk_kind: "kWhile" }
"""


def test_the_loops_body_alone_is_counted_and_inner_loops_by_their_trips():
    step = hlo.Program(HLO).step()
    assert (step.f32_convolutions, step.host_transfers, step.collectives, step.transposes) == (1, 1, 1, 1)
    assert step.copied_before == 1000 * 8 * 4
    assert step.kernels == 1 + 3 * 2 + 2 + 1  # a fusion, the copies, two convolutions, the callback
    # Of the data set no more than the slice is read; what lies in a TPU's own memory costs its source alone.
    slice_, image = 2 * 8 * 4, 2 * 4 * 4 * 8 * 2
    fusion, copies, convolutions = 2 * slice_ + 4, 3 * 3 * slice_, 3 * image + 3 * slice_
    assert step.bytes == fusion + copies + 2 * slice_ + convolutions + slice_


def test_thunks_are_counted_as_they_are_launched():
    sent = thunks.step_launches(THUNKS, NAMES, hlo.Program(HLO).trips)
    assert sent == thunks.Launches(kernels=2 + 1 + 3 * 3 + 1, launches=1 + 1 + 3 * 2 + 1, transfers=1)


def test_the_dump_of_what_is_run_goes_before_what_was_planned(tmp_path):
    for name, text in (("thunk_sequence", "planned"), ("thunk_sequence_after_thunk_passes", "run")):
        (tmp_path / f"module_0001.jit_run_steps.{name}.txt").write_text(text)
    (tmp_path / "module_0001.jit_run_steps.thunk_metadata.txt").write_text("names")
    assert thunks.read_dump(tmp_path) == ("run", "names")


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 1), (7, 3, 2), (1, 3, 1), (16, 7, 2), (8, 1, 2)])
def test_flops_are_those_that_xla_counts_once_per_step(size, kernel, stride):
    def loss(w, x):
        pad = (kernel // 2, kernel // 2)
        y = lax.conv_general_dilated(x, w, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y.reshape(y.shape[0], -1) @ jnp.ones((y[0].size, 5), jnp.float32)).sum()

    def run(w, x, steps):
        return lax.fori_loop(0, steps, lambda i, w: w - sum(jax.grad(loss, (0, 1))(w, x)[:1]), w)

    w, x = jnp.ones((kernel, kernel, 6, 10), jnp.float32), jnp.ones((4, size, size, 6), jnp.float32)
    ours = step_flops(jax.make_jaxpr(run)(w, x, 3).jaxpr, "cpu", 1)
    analysis = jax.jit(jax.grad(loss)).lower(w, x).compile().cost_analysis()
    assert analysis is not None
    theirs = analysis["flops"]
    assert theirs == pytest.approx(ours["float32"], rel=0.05)  # theirs are the element-wise ones too


def test_flops_follow_scans_platforms_and_devices():
    def form(n):
        return lambda x: sum(x @ x for _ in range(n))

    def run(x, steps):
        def layer(x, _):
            return lax.platform_dependent(x, cpu=form(1), default=form(2)), None

        return lax.fori_loop(0, steps, lambda i, x: lax.scan(layer, x, None, length=5)[0], x)

    jaxpr = jax.make_jaxpr(run)(jnp.ones((4, 4), jnp.bfloat16), 3).jaxpr
    product = 2 * 4**3
    assert step_flops(jaxpr, "cpu", 1) == {"bfloat16": 5 * product}
    assert step_flops(jaxpr, "cuda", 2) == {"bfloat16": 5 * 2 * product / 2}


def test_the_bound_is_the_longer_of_arithmetic_and_traffic():
    card = targets.CARDS["a100"]
    assert bound_of({"bfloat16": 312e9, "float32": 156e9}, 10, card) == (pytest.approx(2e-3), "arithmetic")
    assert bound_of({"bfloat16": 1.0}, int(1.5552e12), card) == (pytest.approx(1.0), "memory traffic")


@pytest.mark.parametrize(
    ("changes", "rows", "groups"),
    [
        # 80 % of 80 %, rounded down each time: 4291 nv and 73 df, hence 59 groups of nv.
        ({"data.name": "ham10000"}, 6405, {"nv": 59, "mel": 10, "bkl": 10, "bcc": 4, "akiec": 3, "vasc": 1, "df": 1}),
        (
            {"data.name": "ham10000", "data.split": "official"},  # 80 % of the 10,015
            8010,
            {"nv": 58, "mel": 10, "bkl": 10, "bcc": 4, "akiec": 3, "vasc": 1, "df": 1},
        ),
        (
            {"data.name": "cifar100", "data.split": "official", "data.positive": "apple"},
            40_000,
            {"rest": 99, "apple": 1},
        ),
        ({"data.name": "phrasebank", "model.name": "bert"}, 3100, {"neutral": 5, "positive": 2, "negative": 1}),
    ],
    ids=["ham10000", "ham10000, official", "cifar100", "phrasebank"],
)
def test_shapes_follow_from_the_config_alone(changes, rows, groups):
    outline = outline_of(method_config("rg", {**changes, "data.image_size": 32, "train.batch_size": 32}))
    assert len(outline.dataset.train) == len(outline.pool) == rows
    found = np.bincount(outline.regrouping.parent)
    assert dict(zip(outline.dataset.class_names, found.tolist(), strict=True)) == groups


def test_an_outline_of_data_at_hand_is_the_data():
    config = method_config("rusc", {"data.name": "digits", "data.positive": "8"})
    dataset, outline = build.load_data(config), build.load_data(config, outline=True)
    np.testing.assert_array_equal(dataset.labels, outline.labels)
    assert len(outline_of(config).pool) == 2 * int(dataset.labels[dataset.train].sum())


def test_an_outline_has_as_many_rows_as_synthetic_images_make_of_them():
    config = method_config("dsmt", {"data.name": "ham10000", "data.image_size": 32, "data.split": "grouped"})
    outline = outline_of(config)
    counts = np.bincount(outline.labels[outline.pool])
    assert len(set(counts)) == 1 and counts.sum() == len(outline.rows) == 7 * outline.regrouping.counts.max()
    assert outline.inputs.shape == (10_015 + len(outline.rows) - len(outline.dataset.train), 32, 32, 3)
    assert outline.inputs.strides[0] == 0  # views of one row
    assert outline.plan.steps_per_epoch == len(outline.dataset.train) // config.train.batch_size
    assert len(inputs_of(config, outline, 1)[0].inputs) == len(outline.inputs)


def test_a_batch_of_sentences_is_packed_as_far_as_the_published_lengths_fill_it():
    config = method_config("rg", {"data.name": "phrasebank", "model.name": "bert", "train.batch_size": 32})
    (tokens, _), prepare = inputs_of(config, outline_of(config), 1)
    assert tokens.ids.shape == (4846, 64)
    batch = jax.eval_shape(prepare, jax.tree.map(lambda rows: rows[:32], tokens))
    assert 32 * 28 < len(batch.ids) < 32 * 45
    with pytest.raises(UserError, match="does not read sentences"):
        inputs_of(method_config("rg", {"data.name": "phrasebank"}), outline_of(config), 1)


def figures_at(batch: int, peak: int) -> Figures:
    blank = {name: 0 for name in Figures.__dataclass_fields__}
    return replace(
        Figures(**blank),  # pyright: ignore[reportArgumentType]
        devices=1,
        batch_size=batch,
        training_rows=6400,
        usable_memory_bytes=10_000,
        argument_bytes=1000,
        peak_memory_bytes=peak,
    )


@pytest.mark.parametrize("each", [1, 5, 13, 60], ids=lambda each: f"{each} bytes a row")
def test_the_largest_batch_is_found_in_few_compilations(each):
    tried = []

    def peak_of(batch):
        tried.append(batch)
        return 1000 + each * batch if batch < 2000 else None

    found = largest_batch(figures_at(256, 1000 + each * 256), peak_of)
    best = min(1999, 9000 // each)
    assert found <= best
    assert found >= best * 0.75 - 16
    assert len(tried) <= 4


def run(*arguments, python=sys.executable, **environment):
    return subprocess.run(
        [python, "-m", "rgjax.preflight", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target=b200"], "unknown --target 'b200'"),
        ([], "--target=CARD is missing"),
        (["--target=a100", "--config.train.epochz=3"], "did you mean 'train.epochs'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says):
    process = run("--config=configs/digits.py", *arguments)
    assert process.returncode == 2, process.stderr
    assert says in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(("name", "extra"), [("a100", "cuda12"), ("v5e-4", "tpu")])
def test_a_missing_compiler_is_named_with_the_way_to_it(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=f"--target={name} needs .*: uv sync --extra {extra}"):
        targets.find(name)[0].devices()


def needs(target: str) -> None:
    """Asked of the package alone: the compiler itself would stay in this process, and not start beside a backend."""
    platform = targets.find(target)[0].card.platform
    if not targets.compiler_found(platform):
        pytest.skip(f"needs XLA's {platform} compiler, which is not installed")


@pytest.mark.parametrize(
    ("target", "arguments", "at_most"),
    [
        (
            "a100",
            ["--config=configs/ham10000.py", "--config.data.image_size=32"],
            {"kernels_per_step": 470, "temp_memory_bytes": 150e6, "f32_convolutions": 0, "host_transfers": 0},
        ),
        (
            "a100",
            ["--config=configs/ham10000.py", "--config.data.image_size=32", "--config.population=8"],
            {"kernels_per_step": 560, "f32_convolutions": 0, "host_transfers": 0, "collectives": 0},
        ),
        (
            "a100",
            ["--config=configs/ham10000.py"],
            {"kernels_per_step": 520, "temp_memory_bytes": 3.9e9, "f32_convolutions": 0, "host_transfers": 0},
        ),
        ("v5e-4", ["--config=configs/ham10000.py"], {"peak_memory_bytes": 1.6e9, "host_transfers": 0}),
        ("v5e-4", ["--config=configs/phrasebank.py"], {"peak_memory_bytes": 2.6e9, "host_transfers": 0}),
    ],
    ids=["a100-32", "a100-32-population", "a100-224", "v5e-4-224", "v5e-4-bert"],
)
def test_the_program_keeps_its_bounds_on_hardware_that_is_not_here(target, arguments, at_most):
    needs(target)
    process = run(*arguments, f"--target={target}", "--json", "--nomax_batch")
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert {name: found[name] for name in at_most if found[name] > at_most[name]} == {}
    assert found["bound_examples_per_s"] > 1000
