"""Estimate memory, work, speed and largest batch of a program on a target."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from rgjax.config import Config
from rgjax.errors import first_line
from rgjax.preflight.flops import step_flops
from rgjax.preflight.hlo import Program
from rgjax.preflight.program import lowered_program, spec_task
from rgjax.preflight.targets import Card, Target
from rgjax.preflight.thunks import read_dump, step_launches
from rgjax.training.setup import make_schedule

_COMPILES = 4  # limit of the search for the largest batch; each takes 8 to 90 s


@dataclass(frozen=True)
class Estimate:
    """Memory and work of a compiled program per device, and a bound on its speed.

    `..._per_step` counts one iteration of the training loop. `peak_memory_bytes` includes the arguments (data set,
    state), temporary arrays and results. `bound_step_s` is the time of one step's arithmetic or memory traffic at the
    card's peak rates, whichever is longer; `bound_examples_per_s` and `bound_hours` (of the whole run) follow from it.
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
    f32_convolutions: int
    host_transfers: int
    collectives: int
    transposes: int
    copied_before_bytes: int
    bound_step_s: float
    bound_by: str
    bound_examples_per_s: float
    bound_hours: float


class TooLarge(Exception):
    """The compiler rejects the program: it needs more memory than the device has."""


def estimate(config: Config, target: Target, devices: list[Any]) -> Estimate:
    """Compile the config's program for the `devices` of `target`. Raises TooLarge."""
    task = spec_task(config)
    schedule = make_schedule(config, task.examples_per_epoch(config))
    traced, lowered = lowered_program(config, task, devices, target.card.platform, target.card.usable)
    started = time.perf_counter()
    compiled, dump = _compile(lowered, target.card)
    compile_s = time.perf_counter() - started

    # Count the work of one step. On GPUs, only the thunks show which kernels are launched.
    memory: Any = compiled.memory_analysis()
    program = Program(compiled.as_text() or "")
    step = program.step()
    flops = step_flops(traced.jaxpr.jaxpr, target.card.platform, len(devices))
    bound, bound_by = bound_of(flops, step.bytes, target.card)
    kernels, launches, transfers = step.kernels, 0, step.host_transfers
    if dump is not None:
        counts = step_launches(*dump, program.trips)
        kernels, launches, transfers = counts.kernels, counts.launches, max(transfers, counts.transfers)

    return Estimate(
        target=target.name,
        card=target.card.title,
        devices=len(devices),
        batch_size=schedule.batch_size,
        training_rows=len(task.dataset.train),
        synthetic_rows=len(task.indices) - len(task.dataset.train),
        pseudo_classes=task.regrouping.num_pseudo_classes,
        steps=schedule.total_steps,
        compile_s=round(compile_s, 1),
        memory_bytes=target.card.memory,
        usable_memory_bytes=target.card.usable,
        peak_memory_bytes=_peak(memory),
        argument_bytes=memory.argument_size_in_bytes,
        temp_memory_bytes=memory.temp_size_in_bytes,
        kernels_per_step=kernels,
        launches_per_step=launches,
        flops_per_step=round(sum(flops.values())),
        flops_by_dtype={dtype: round(count) for dtype, count in flops.items()},
        bytes_per_step=step.bytes,
        f32_convolutions=step.f32_convolutions,
        host_transfers=transfers,
        collectives=step.collectives,
        transposes=step.transposes,
        copied_before_bytes=step.copied_before,
        bound_step_s=bound,
        bound_by=bound_by,
        bound_examples_per_s=round(config.population * schedule.batch_size / bound, 1),
        bound_hours=round(schedule.total_steps * bound / 3600, 4),
    )


def bound_of(flops: dict[str, float], moved: int, card: Card) -> tuple[float, str]:
    """Lower bound on the time of a step in seconds, and its cause.

    The bound is the time of all arithmetic or of all memory traffic at the card's peak rates, whichever is longer.
    """
    arithmetic = sum(n / (card.float32 if dtype == "float32" else card.bfloat16) for dtype, n in flops.items())
    return max((arithmetic, "arithmetic"), (moved / card.bandwidth, "memory traffic"))


def _peak(memory: Any) -> int:
    """Peak memory by XLA's analysis; without one, the arrays that must coexist."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.peak_memory_in_bytes or memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def _compile(lowered: jax.stages.Lowered, card: Card) -> tuple[jax.stages.Compiled, tuple[str, str] | None]:
    """The compiled program and, for a GPU, the dump of its thunks.

    JAX's compilation cache must be off: a cached program leaves no dump.
    """
    with tempfile.TemporaryDirectory() as folder:
        gpu = card.platform == "cuda"
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True} if gpu else {}
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise TooLarge(first_line(error)) from error
            raise
        return compiled, read_dump(Path(folder)) if gpu else None


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
