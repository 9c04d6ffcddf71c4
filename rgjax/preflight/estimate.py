"""The figures of a config's training program on a target, and the largest batch that fits there."""

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
from rgjax.preflight.program import lowered_program, outline_of
from rgjax.preflight.targets import Card, Target
from rgjax.preflight.thunks import read_dump, step_launches

_COMPILES = 4  # at most, to find the largest batch: one takes 8 to 90 s


@dataclass(frozen=True)
class Figures:
    """One compiled program. All but the bounds are of one device; `per_step` is one run of the loop's body.

    `peak_memory_bytes` are the arguments (data set, state), what is computed in between (`temp`) and the results.
    `bound_examples_per_s` is what neither arithmetic nor memory traffic, at the card's peaks, would let be exceeded;
    `bound_hours` are those of all steps of the run at it.
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
    """The compiler says that the program needs more memory than the device has."""


def figures(config: Config, target: Target, devices: list[Any]) -> Figures:
    """Compile the config's program for the `devices` of `target`. Raises TooLarge."""
    outline = outline_of(config)
    traced, lowered = lowered_program(config, outline, devices, target.card.platform, target.card.usable)
    started = time.perf_counter()
    compiled, dump = _compile(lowered, target.card)
    seconds = time.perf_counter() - started
    memory: Any = compiled.memory_analysis()
    program = Program(compiled.as_text() or "")
    step = program.step()
    flops = step_flops(traced.jaxpr.jaxpr, target.card.platform, len(devices))
    bound, bound_by = bound_of(flops, step.bytes, target.card)
    kernels, launches, transfers = step.kernels, 0, step.host_transfers
    if dump is not None:
        sent = step_launches(*dump, program.trips)
        kernels, launches, transfers = sent.kernels, sent.launches, max(transfers, sent.transfers)
    return Figures(
        target=target.name,
        card=target.card.title,
        devices=len(devices),
        batch_size=outline.plan.batch_size,
        training_rows=len(outline.dataset.train),
        synthetic_rows=len(outline.rows) - len(outline.dataset.train),
        pseudo_classes=outline.regrouping.num_pseudo_classes,
        steps=outline.plan.total_steps,
        compile_s=round(seconds, 1),
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
        bound_examples_per_s=round(config.population * outline.plan.batch_size / bound, 1),
        bound_hours=round(outline.plan.total_steps * bound / 3600, 4),
    )


def bound_of(flops: dict[str, float], moved: int, card: Card) -> tuple[float, str]:
    """Seconds that a step takes at the least, and what for: all its arithmetic at the peak, or all its traffic."""
    arithmetic = sum(n / (card.float32 if dtype == "float32" else card.bfloat16) for dtype, n in flops.items())
    return max((arithmetic, "arithmetic"), (moved / card.bandwidth, "memory traffic"))


def _peak(memory: Any) -> int:
    """As XLA says, or at least what must be there together."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.peak_memory_in_bytes or memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def _compile(lowered: jax.stages.Lowered, card: Card) -> tuple[jax.stages.Compiled, tuple[str, str] | None]:
    """The compiled program and, of a GPU's, the dump of its thunks, which alone tells what is launched.

    JAX's cache of programs must be off: what comes out of it leaves no dump.
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


def largest_batch(found: Figures, peak_of: Callable[[int], int | None]) -> int:
    """The largest batch whose program fits, to within a sixteenth of it or so; 0 where not even one device's share
    of 8 rows does.

    `peak_of(batch)` compiles another batch and gives its peak memory, None where the compiler refuses; memory is
    taken to grow in proportion to the batch beyond the arguments, so that few compilations do.
    """

    def guess(batch: int, peak: int) -> int:
        each = max(peak - found.argument_bytes, 1) / batch
        return int((found.usable_memory_bytes - found.argument_bytes) / each)

    best = guess(found.batch_size, found.peak_memory_bytes)
    unit = max(8 * found.devices, 1 << max(min(best, found.training_rows), 1).bit_length() >> 4)
    fits, too_large = 0, found.training_rows // unit * unit + unit
    if found.peak_memory_bytes <= found.usable_memory_bytes:
        fits = found.batch_size
    else:
        too_large = found.batch_size
    for _ in range(_COMPILES):
        lowest, highest = fits // unit * unit + unit, -(-too_large // unit) * unit - unit
        if lowest > highest:
            break
        batch = min(max(best // unit * unit, lowest), highest)
        peak = peak_of(batch)
        if peak is not None and peak <= found.usable_memory_bytes:
            fits = batch
        else:
            too_large = batch
        best = (fits + too_large) // 2 if peak is None else guess(batch, peak)
    return fits
