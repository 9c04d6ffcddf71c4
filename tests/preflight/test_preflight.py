"""Preflight: counts of a compiled program, sizes that follow from a config, and errors."""

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

from rgjax import experiment
from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.errors import UserError
from rgjax.losses import loss_of
from rgjax.models.factory import make_model
from rgjax.preflight import hlo, targets, thunks
from rgjax.preflight.estimate import Estimate, bound_of, largest_batch, predict
from rgjax.preflight.flops import step_flops
from rgjax.preflight.program import lowered_program, spec_task
from rgjax.sharding import make_mesh
from rgjax.training import trainer
from rgjax.training.program import init_state
from rgjax.training.setup import host_data, training_program
from tests.support.downloads import write_tiny_bert
from tests.support.programs import Dense

ROOT = Path(__file__).parents[2]

# A prologue, the training loop, and in its body a loop of 3 trips, in the form of XLA's own text.
HLO = """\
HloModule jit_run_steps, is_scheduled=true

%fused_weights (p: f32[1000]) -> (bf16[10], bf16[1000]) {
  %p.5 = f32[1000]{0} parameter(0)
  %narrow = bf16[1000]{0} convert(%p.5)
  %piece = bf16[10]{0} slice(%narrow), slice={[0:10]}
  %few = bf16[10]{0} negate(%piece)
  %none.5 = bf16[1000]{0} constant({...})
  %at = s32[] constant(0)
  %updated = bf16[1000]{0} dynamic-update-slice(%none.5, %piece, %at)
  ROOT %both = (bf16[10]{0}, bf16[1000]{0}) tuple(%few, %updated)
}

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
  %conv.1 = (bf16[2,4,4,8]{3,2,1,0}, u8[4096]{0}) custom-call(%x.4, %x.4), window={size=3x3 pad=1_1x1_1}, \
custom_call_target="__cudnn$convForward"
  %conv.2 = (f32[2,8]{1,0}, u8[0]{0}) custom-call(%summed, %y), window={size=3x3 pad=1_1x1_1}, \
custom_call_target="__cudnn$convForward"
  %weights = f32[1000]{0} constant({...})
  %started = ((f32[1000]{0}), (bf16[10]{0}, bf16[1000]{0}), u32[]) fusion-start(%weights), kind=kLoop, \
calls=%fused_weights
  %ended = (bf16[10]{0}, bf16[1000]{0}) fusion-done(%started)
  %rows = s32[2,1]{1,0} constant({...})
  %twice = f32[2,8]{1,0} scatter(%y, %rows, %y), to_apply=%inner_condition
  %once = f32[2,8]{1,0} scatter(%y, %rows, %y), unique_indices=true, to_apply=%inner_condition
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


def test_the_body_of_the_loop_is_counted_and_inner_loops_by_their_trips():
    step = hlo.Program(HLO).step()
    assert (step.f32_convolutions, step.host_transfers, step.transposes, step.scatters) == (1, 1, 1, 1)
    assert (step.collectives, step.all_reduces, step.all_reduced_bytes) == (1, 1, 2 * 8 * 4)
    assert step.copied_before == 1000 * 8 * 4
    # Two fusions, one of them asynchronous; the copies, two convolutions, two scatters, the callback.
    assert step.kernels == 2 + 3 * 2 + 2 + 2 + 1
    # Only a slice of the data set is read; of a copy to a TPU's own memory only the source counts.
    slice_, image = 2 * 8 * 4, 2 * 4 * 4 * 8 * 2
    fusion, copies, scatters = 2 * slice_ + 4, 3 * 3 * slice_, 2 * (8 + 2 * slice_)
    weights = 10 * 4 + 2 * 10 * 2  # of a converted array the slice is read, of one updated in place the update written
    assert step.traffic.bytes == fusion + weights + copies + 2 * slice_ + scatters + slice_
    assert step.product_traffic.bytes == 3 * image + 3 * slice_
    # A cache can hold what is not larger: all but the images.
    cached = hlo.Program(HLO).step(cache=image - 1)
    assert (cached.traffic.uncached, cached.product_traffic.uncached) == (0, 3 * image)
    assert cached.bytes == step.bytes


def test_thunks_are_counted_as_they_are_launched():
    counts = thunks.step_launches(THUNKS, NAMES, hlo.Program(HLO).trips)
    assert counts == thunks.Launches(kernels=2 + 1 + 3 * 3 + 1, launches=1 + 1 + 3 * 2 + 1, transfers=1)


def test_the_dump_after_all_passes_is_preferred(tmp_path):
    for name, text in (("thunk_sequence", "planned"), ("thunk_sequence_after_thunk_passes", "run")):
        (tmp_path / f"module_0001.jit_run_steps.{name}.txt").write_text(text)
    (tmp_path / "module_0001.jit_run_steps.thunk_metadata.txt").write_text("names")
    assert thunks.read_dump(tmp_path) == ("run", "names")


def test_atomic_instructions_are_counted(tmp_path):
    lines = ["\tatom.relaxed.sys.global.cas.b32 %r7, [%rd5], %r25;", "\t@%p1 red.global.add.f32 [%rd1], %f1;"]
    (tmp_path / "module_0001.jit_run_steps.ptx").write_text("\n".join([*lines, "\tadd.f32 %atom.1, %f1, %f2;"]))
    assert thunks.count_atomics(tmp_path) == 2


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 1), (7, 3, 2), (1, 3, 1), (16, 7, 2), (8, 1, 2)])
def test_flops_of_a_step_agree_with_xla(size, kernel, stride):
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
    assert theirs == pytest.approx(ours["float32"], rel=0.05)  # XLA also counts element-wise operations


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


def step_of(**counts) -> hlo.Step:
    blank = {name: 0 for name in hlo.Step.__dataclass_fields__}
    return hlo.Step(**blank | {"traffic": hlo.Traffic(), "product_traffic": hlo.Traffic()} | counts)


def test_a_step_takes_element_wise_work_and_then_products():
    card = targets.CARDS["a100"]
    second, flops = int(card.bandwidth), {"bfloat16": 312e12, "float32": 156e12}
    assert bound_of(flops, step_of(), card) == pytest.approx(2)
    step = step_of(traffic=hlo.Traffic(second, second // 2), product_traffic=hlo.Traffic(4 * second, 3 * second))
    assert bound_of(flops, step, card) == pytest.approx(0.5 + 3)
    assert bound_of({}, step, card) == pytest.approx(0.5 + 3)
    # The rates that are assumed take longer, and nothing is in the cache; kernels and all-reduces add up.
    pace = card.pace
    alone = predict(flops, step, 1000, card, 1)
    assert alone == pytest.approx((1 + 4) / pace.bandwidth + 1000 * pace.kernel_s)
    eight = predict(flops, replace(step, all_reduces=70, all_reduced_bytes=int(card.link)), 1000, card, 8)
    assert eight == pytest.approx(alone + 2 * 7 / 8 + 70 * pace.all_reduce_s)


@pytest.mark.parametrize(
    ("setting", "platform", "options"),
    [
        ("auto", "cuda", {"xla_gpu_exclude_nondeterministic_ops": True}),
        ("on", "gpu", {"xla_gpu_deterministic_ops": True}),
        ("off", "cuda", {}),
        ("on", "cpu", {}),
        ("auto", "tpu", {}),
    ],
)
def test_programs_for_gpus_are_compiled_for_the_same_bits(setting, platform, options):
    config = method_config("ce", {
        "data.name": "digits", "data.image_size": 8, "train.batch_size": 16, "train.deterministic": setting,
    })  # fmt: skip
    mesh, keys = make_mesh(jax.devices()[:1], trials=1, batch_size=16), [jax.random.key(0)]
    network = init_state(Dense(), "sgd")
    spec = training_program(config, spec_task(config), *network, keys=keys, mesh=mesh, platform=platform)
    without_triton = {"xla_gpu_enable_triton_gemm": False} if options else {}
    assert dict(spec.compiler_options) == options | without_triton


@pytest.mark.parametrize(
    ("changes", "examples", "groups"),
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
def test_sizes_follow_from_the_config_alone(changes, examples, groups):
    task = spec_task(method_config("rg", {**changes, "data.image_size": 32, "train.batch_size": 32}))
    assert len(task.dataset.train) == len(task.pool) == examples
    pseudo_classes = np.bincount(task.regrouping.parent)
    assert dict(zip(task.dataset.class_names, pseudo_classes.tolist(), strict=True)) == groups


def test_the_spec_of_digits_has_the_labels_of_the_data():
    config = method_config("rusc", {"data.name": "digits", "data.positive": "8"})
    dataset, spec = load_data(config.data), load_data(config.data, spec=True)
    np.testing.assert_array_equal(dataset.labels, spec.labels)
    assert len(spec_task(config).pool) == 2 * int(dataset.labels[dataset.train].sum())


def test_a_spec_contains_the_synthetic_images_without_their_memory():
    config = method_config("dsmt", {"data.name": "ham10000", "data.image_size": 32, "data.split": "grouped"})
    task = spec_task(config)
    counts = np.bincount(task.labels[task.pool])
    assert len(set(counts)) == 1 and counts.sum() == len(task.indices) == 7 * task.regrouping.counts.max()
    assert task.inputs.shape == (10_015 + len(task.indices) - len(task.dataset.train), 32, 32, 3)
    assert task.inputs.strides[0] == 0  # views of one image
    assert task.examples_per_epoch(config) == len(task.dataset.train)
    assert len(host_data(task.inputs)) == task.indices.max() + 1


@pytest.mark.parametrize(("max_length", "longest"), [("auto", 192), (64, 64), (128, 128)])
def test_the_lengths_of_custom_texts_are_estimated_from_their_words(max_length, longest, tmp_path):
    write_tiny_bert(tmp_path / "bert", 192)
    rows = [f"a{i} {'profit ' * (199 if i % 2 else 9)},{'ab'[i % 3 // 2]}" for i in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["text,label", *rows]))
    changes = {
        "data.name": "text", "data.manual_dir": str(tmp_path / "table.csv"), "data.max_length": max_length,
        "model.name": "bert", "model.checkpoint": str(tmp_path / "bert"), "train.batch_size": 8,
    }  # fmt: skip
    tokens = spec_task(method_config("ce", changes)).inputs
    assert tokens.ids.shape == (60, longest)
    assert tokens.lengths.tolist()[:2] == [12, longest]


def test_a_batch_of_sentences_is_packed_as_densely_as_the_published_lengths_allow():
    config = method_config("rg", {"data.name": "phrasebank", "model.name": "bert", "train.batch_size": 32})
    task = spec_task(config)
    assert task.inputs.ids.shape == (4846, 64)
    mesh, keys = make_mesh(jax.devices()[:1], trials=1, batch_size=32), [jax.random.key(0)]
    network = init_state(Dense(words=50), "sgd")
    spec = training_program(config, task, *network, keys=keys, mesh=mesh, platform="cpu")
    batch = jax.eval_shape(spec.prepare, jax.tree.map(lambda x: x[:32], task.inputs))
    assert 32 * 28 < len(batch.ids) < 32 * 45
    with pytest.raises(UserError, match="cannot read sentences"):
        spec_task(method_config("rg", {"data.name": "phrasebank"}))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param("rg_la", {}, marks=pytest.mark.long),
        ("ce", {"train.on_nan": "skip", "train.optimizer": "adamw"}),
        pytest.param("rusc", {"data.placement": "stream", "train.epoch_size": "sampler"}, marks=pytest.mark.long),
    ],
    ids=["rg_la", "skip", "stream"],
)
def test_preflight_lowers_the_program_that_the_trainer_compiles(method, changes, monkeypatch, tmp_path):
    config = method_config(method, {
        "data.name": "digits", "data.positive": "8", "data.image_size": 8, "model.name": "resnet10", "model.width": 4,
        "encoder.name": "projection", "regroup.rule": "target", "regroup.threshold": 300, "regroup.n_init": 1,
        "train.steps": 4, "train.batch_size": 16, "trackers": "", **changes,
    })  # fmt: skip
    task, mesh = experiment.prepare(config), make_mesh(jax.devices()[:1], trials=1, batch_size=16)
    model = make_model(
        config.model, task.regrouping.num_pseudo_classes, head=loss_of(config.loss).head, seed=config.seed
    )
    lowered = []

    class Noted:
        def __init__(self, run_steps):
            self.run_steps = run_steps

        def lower(self, *arguments):
            lowered.append(self.run_steps.lower(*arguments))
            return lowered[0]

    make_run_steps = trainer.make_run_steps
    monkeypatch.setattr(trainer, "make_run_steps", lambda spec: Noted(make_run_steps(spec)))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes within
        session, state, _ = trainer.open_session([task], [trainer.Trial(config, tmp_path)], [model], mesh)
        trainer.compile_steps(session, state)
        _, ours = lowered_program(config, spec_task(config), jax.devices()[:1], jax.default_backend(), 2**40)
    for checkpoints in session.checkpoints:
        checkpoints.close()
    assert ours.as_text() == lowered[0].as_text()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ours.out_info) == jax.tree.map(
        lambda x: (x.shape, x.dtype), lowered[0].out_info
    )


def estimate_of(batch: int, peak: int) -> Estimate:
    blank = {name: 0 for name in Estimate.__dataclass_fields__}
    return replace(
        Estimate(**blank),  # pyright: ignore[reportArgumentType]
        devices=1,
        batch_size=batch,
        training_rows=6400,
        usable_memory_bytes=10_000,
        argument_bytes=1000,
        peak_memory_bytes=peak,
    )


@pytest.mark.parametrize("each", [1, 5, 13, 60], ids=lambda each: f"{each} bytes an example")
def test_the_largest_batch_is_found_in_few_compilations(each):
    tried = []

    def peak_of(batch):
        tried.append(batch)
        return 1000 + each * batch if batch < 2000 else None

    largest = largest_batch(estimate_of(256, 1000 + each * 256), peak_of)
    best = min(1999, 9000 // each)
    assert best * 0.75 - 16 <= largest <= best
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
        (["--target=b100"], "unknown --target 'b100'"),
        ([], "--target=CARD is missing"),
        (["--target=a100", "--config.train.epochz=3"], "did you mean 'train.epochs'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says):
    process = run("--config=configs/digits.py", *arguments)
    assert process.returncode == 2, process.stderr
    assert says in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(("name", "extra"), [("a100", "cuda13"), ("v5e-4", "tpu")])
def test_a_missing_compiler_is_named_with_its_install_command(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=f"--target={name}: needs .*; run `uv sync --extra {extra}`"):
        targets.find(name)[0].devices()


def needs(target: str) -> None:
    """Skip without the compiler. It is not loaded here: it would stay in this process, beside the CPU backend."""
    platform = targets.find(target)[0].card.platform
    if not targets.compiler_installed(platform):
        pytest.skip(f"needs XLA's {platform} compiler, which is not installed")


@pytest.mark.parametrize(
    ("target", "arguments", "at_most"),
    [
        ("v5e-4", ["--config=configs/ham10000.py"], {"peak_memory_bytes": 1.6e9, "host_transfers": 0}),
        ("v5e-4", ["--config=configs/phrasebank.py"], {"peak_memory_bytes": 2.6e9, "host_transfers": 0}),
    ],
    ids=["v5e-4-224", "v5e-4-bert"],
)
def test_the_program_keeps_its_bounds_on_other_hardware(target, arguments, at_most):
    needs(target)
    process = run(*arguments, f"--target={target}", "--json", "--no-max-batch", "--no-price")
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert {name: report[name] for name in at_most if report[name] > at_most[name]} == {}
    assert report["bound_examples_per_s"] > report["predicted_examples_per_s"] > 1000
