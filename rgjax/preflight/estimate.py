"""Estimate memory, work, speed and largest batch of a program on a target."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from rgjax.config import Config
from rgjax.errors import first_line
from rgjax.preflight.flops import step_flops
from rgjax.preflight.hlo import Program, Step
from rgjax.preflight.program import lowered_program, spec_task
from rgjax.preflight.targets import Card, Target
from rgjax.preflight.thunks import Launches, count_atomics, read_dump, step_launches
from rgjax.training.compiler import compiler_options
from rgjax.training.setup import make_schedule

_COMPILES = 4  # limit of the search for the largest batch; each takes 8 to 90 s


@dataclass(frozen=True)
class Estimate:
    """Memory and work of a compiled program per device, and a bound on its speed.

    `..._per_step` counts one iteration of the training loop. `peak_memory_bytes` includes the arguments (data set,
    state), temporary arrays and results. `cached_bytes_per_step` is the part of `bytes_per_step` in arrays that the
    card's L2 cache can hold. `bound_step_s` and `predicted_step_s` are those of `bound_of` and `predict`; examples/s,
    and hours of the whole run, follow from them. `plain_kernels` and `plain_bytes` are those of a step without the
    options of `train.deterministic`; None if there are none, or if that was not asked for.
    """

    target: str
    card: str
    devices: int
    batch_size: int
    training_rows: int
    synthetic_rows: int
    pseudo_classes: int
    steps: int
    compile_s: float
    memory_bytes: int
    usable_memory_bytes: int
    peak_memory_bytes: int
    argument_bytes: int
    temp_memory_bytes: int
    kernels_per_step: int
    launches_per_step: int
    flops_per_step: int
    flops_by_dtype: dict[str, int]
    bytes_per_step: int
    cached_bytes_per_step: int
    f32_convolutions: int
    host_transfers: int
    collectives: int
    all_reduces: int
    all_reduced_bytes: int
    scatters: int
    atomics: int
    transposes: int
    copied_before_bytes: int
    plain_kernels: int | None
    plain_bytes: int | None
    bound_step_s: float
    bound_examples_per_s: float
    bound_hours: float
    predicted_step_s: float
    predicted_examples_per_s: float
    predicted_hours: float


class TooLarge(Exception):
    """The compiler rejects the program: it needs more memory than the device has."""


@dataclass(frozen=True)
class Compiled:
    """A compiled program: its memory, and the counts of one step."""

    memory: Any
    step: Step
    kernels: int
    launches: int
    transfers: int
    atomics: int
    seconds: float

    def counts(self) -> dict[str, int]:
        """Of one step, as fields of an Estimate."""
        step = self.step
        return {
            "kernels_per_step": self.kernels,
            "launches_per_step": self.launches,
            "bytes_per_step": step.bytes,
            "cached_bytes_per_step": step.bytes - step.traffic.uncached - step.product_traffic.uncached,
            "f32_convolutions": step.f32_convolutions,
            "host_transfers": self.transfers,
            "collectives": step.collectives,
            "all_reduces": step.all_reduces,
            "all_reduced_bytes": step.all_reduced_bytes,
            "scatters": step.scatters,
            "atomics": self.atomics,
            "transposes": step.transposes,
            "copied_before_bytes": step.copied_before,
        }


def estimate(config: Config, target: Target, devices: list[Any], *, price: bool = False) -> Estimate:
    """Compile the config's program for the devices of a target.

    Args:
        config: of the run.
        target: the hardware.
        devices: that stand for it.
        price: whether to compile again without the options of `train.deterministic`.

    Raises:
        TooLarge: the program needs more memory than the device has.
    """
    card, task = target.card, spec_task(config)
    schedule = make_schedule(config, task.examples_per_epoch(config))
    traced, lowered = lowered_program(config, task, devices, card.platform, card.usable)
    compiled = _compile(lowered, card)
    memory, step = compiled.memory, compiled.step
    plain_kernels = plain_bytes = None
    if price and (options := compiler_options(config.train.deterministic, card.platform)):
        plain = _compile(lowered, card, {name: not value for name, value in options})
        plain_kernels, plain_bytes = plain.kernels, plain.step.bytes

    flops = step_flops(traced.jaxpr.jaxpr, card.platform, len(devices))
    bound, predicted = bound_of(flops, step, card), predict(flops, step, compiled.kernels, card, len(devices))
    examples, hours = config.population * schedule.batch_size, schedule.total_steps / 3600
    return Estimate(
        target=target.name,
        card=card.title,
        devices=len(devices),
        batch_size=schedule.batch_size,
        training_rows=len(task.dataset.train),
        synthetic_rows=len(task.indices) - len(task.dataset.train),
        pseudo_classes=task.regrouping.num_pseudo_classes,
        steps=schedule.total_steps,
        compile_s=round(compiled.seconds, 1),
        memory_bytes=card.memory,
        usable_memory_bytes=card.usable,
        peak_memory_bytes=_peak(memory),
        argument_bytes=memory.argument_size_in_bytes,
        temp_memory_bytes=memory.temp_size_in_bytes,
        flops_per_step=round(sum(flops.values())),
        flops_by_dtype={dtype: round(count) for dtype, count in flops.items()},
        plain_kernels=plain_kernels,
        plain_bytes=plain_bytes,
        bound_step_s=bound,
        bound_examples_per_s=round(examples / bound, 1),
        bound_hours=round(hours * bound, 4),
        predicted_step_s=predicted,
        predicted_examples_per_s=round(examples / predicted, 1),
        predicted_hours=round(hours * predicted, 4),
        **compiled.counts(),
    )


def bound_of(flops: dict[str, float], step: Step, card: Card) -> float:
    """Lower bound on the time of a step in seconds.

    Element-wise work and products follow each other: the former takes its memory traffic at the card's rate, the latter
    their arithmetic or their traffic, whichever is longer. Arrays that the cache can hold are free.
    """
    products = max(_arithmetic(flops, card), step.product_traffic.uncached / card.bandwidth)
    return step.traffic.uncached / card.bandwidth + products


def predict(flops: dict[str, float], step: Step, kernels: int, card: Card, devices: int) -> float:
    """Predicted time of a step in seconds, under the assumptions of the card's pace.

    As `bound_of`, but all arrays come from the memory, at the rates of the pace; each kernel and each sum over devices
    costs time of its own, and a ring of devices sends what it sums twice. Nothing overlaps.

    Args:
        flops: of one step, by dtype.
        step: its counts.
        kernels: of one step.
        card: the hardware.
        devices: that share a batch.
    """
    pace = card.pace
    bandwidth = pace.bandwidth * card.bandwidth
    products = max(_arithmetic(flops, card) / pace.arithmetic, step.product_traffic.bytes / bandwidth)
    sent = 2 * (devices - 1) / devices * step.all_reduced_bytes / card.link
    return (
        step.traffic.bytes / bandwidth
        + products
        + kernels * pace.kernel_s
        + sent
        + step.all_reduces * pace.all_reduce_s
    )


def _arithmetic(flops: dict[str, float], card: Card) -> float:
    """Seconds of the arithmetic at the card's peak."""
    return sum(n / (card.float32 if dtype == "float32" else card.bfloat16) for dtype, n in flops.items())


def _peak(memory: Any) -> int:
    """Peak memory by XLA's analysis; without one, the arrays that must coexist."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.peak_memory_in_bytes or memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def _compile(lowered: jax.stages.Lowered, card: Card, options: Mapping[str, bool] = MappingProxyType({})) -> Compiled:
    """Compile the program, with `options` in the place of its own.

    JAX's compilation cache must be off: a cached program leaves no dump. On GPUs, only the thunks show which kernels
    are launched.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        gpu = card.platform == "cuda"
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True} if gpu else {}
        try:
            compiled = lowered.compile(compiler_options={**dump, **options})
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise TooLarge(first_line(error)) from error
            raise
        seconds = time.perf_counter() - started
        program = Program(compiled.as_text() or "")
        step = program.step(card.cache)
        counts, atomics = Launches(step.kernels, 0, 0), 0
        if gpu:
            counts = step_launches(*read_dump(Path(folder)), program.trips)
            atomics = count_atomics(Path(folder))
    transfers = max(step.host_transfers, counts.transfers)
    return Compiled(compiled.memory_analysis(), step, counts.kernels, counts.launches, transfers, atomics, seconds)


def largest_batch(start: Estimate, peak_of: Callable[[int], int | None]) -> int:
    """The largest batch that fits, to about 1/16; 0 if not even 8 per device fit.

    Memory beyond the arguments is assumed to be proportional to the batch, so few compilations suffice.

    Args:
        start: an estimate for any batch size.
        peak_of: compiles the program for a batch size; returns its peak memory, or None if the compiler rejects it.
    """

    def guess(batch: int, peak: int) -> int:
        each = max(peak - start.argument_bytes, 1) / batch
        return int((start.usable_memory_bytes - start.argument_bytes) / each)

    best = guess(start.batch_size, start.peak_memory_bytes)
    unit = max(8 * start.devices, 1 << max(min(best, start.training_rows), 1).bit_length() >> 4)
    fits, too_large = 0, start.training_rows // unit * unit + unit
    if start.peak_memory_bytes <= start.usable_memory_bytes:
        fits = start.batch_size
    else:
        too_large = start.batch_size
    for _ in range(_COMPILES):
        lowest, highest = fits // unit * unit + unit, -(-too_large // unit) * unit - unit
        if lowest > highest:
            break
        batch = min(max(best // unit * unit, lowest), highest)
        peak = peak_of(batch)
        if peak is not None and peak <= start.usable_memory_bytes:
            fits = batch
        else:
            too_large = batch
        best = (fits + too_large) // 2 if peak is None else guess(batch, peak)
    return fits
