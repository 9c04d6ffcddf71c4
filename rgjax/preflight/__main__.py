"""Compile a run's training program for hardware that is not at hand, and say what it will need and could reach there.

    python -m rgjax.preflight --config=configs/FILE.py[:METHOD] [--config.NAME=VALUE ...] --target=a100[,h100,v5e-4]

Needs no accelerator, no data and no weights, only XLA's compiler: `uv sync --extra cuda12` for NVIDIA's cards,
`uv sync --extra tpu` for Google's. --json prints the figures as JSON; --nomax_batch leaves out the search for the
largest batch that fits, which takes up to four more compilations.
"""

import json
import logging as python_logging
import os
import time
from dataclasses import asdict
from typing import Any

import jax
from absl import flags, logging

from rgjax import config as settings
from rgjax.command import CONFIG, run
from rgjax.config import Config
from rgjax.errors import UserError
from rgjax.preflight import targets
from rgjax.preflight.estimate import Figures, TooLarge, figures, largest_batch

_log = python_logging.getLogger(__name__)

_TARGET = flags.DEFINE_string("target", "", "cards, by commas: " + ", ".join(targets.CARDS) + "; CARD-4: four of them")
_JSON = flags.DEFINE_bool("json", False, "print the figures as JSON")
_MAX_BATCH = flags.DEFINE_bool("max_batch", True, "search the largest batch that fits")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_platforms", "cpu")  # nothing runs here but the drawing of a few rows
    jax.config.update("jax_enable_compilation_cache", False)
    config = CONFIG.value
    settings.validate(config)
    if not _TARGET.value:
        raise UserError(f"--target=CARD is missing; valid: {', '.join(targets.CARDS)}, or CARD-4 for four of them")
    chosen = [(target, target.devices()) for target in targets.find(_TARGET.value)]
    found = []
    for target, devices in chosen:
        one = examine(config, target, devices, search=_MAX_BATCH.value)
        found.append(one)
        if not _JSON.value:
            print(readable(one, config))
    if _JSON.value:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2, allow_nan=False))


def examine(config: Config, target: targets.Target, devices: list[Any], *, search: bool) -> dict:
    """The figures of the config's program on a target, with `largest_batch` where it is searched."""

    def compile_batch(batch: int | None = None) -> Figures:
        changed = config.copy_and_resolve_references()
        changed.train.batch_size = batch or config.train.batch_size
        _log.info(f"{target.name}: compiling for batches of {changed.train.batch_size} ...")
        started = time.perf_counter()
        one = figures(changed, target, devices)
        _log.info(f"{target.name}: {gigabytes(one.peak_memory_bytes)}, {time.perf_counter() - started:.0f} s")
        return one

    def peak_of(batch: int) -> int | None:
        try:
            return compile_batch(batch).peak_memory_bytes
        except TooLarge:
            return None

    try:
        found = compile_batch()
    except TooLarge as error:
        raise UserError(
            f"--target={target.name}: the program needs more memory than there is; lower config.train.batch_size="
            f"{config.train.batch_size} ({error})"
        ) from error
    return asdict(found) | ({"largest_batch": largest_batch(found, peak_of)} if search else {})


def readable(found: dict, config: Config) -> str:
    """The figures for people."""
    f = Figures(**{name: value for name, value in found.items() if name != "largest_batch"})
    card = targets.find(f.target)[0].card
    per_device = " a device" if f.devices > 1 else ""
    fits = f.peak_memory_bytes <= f.usable_memory_bytes
    of = f"{gigabytes(f.usable_memory_bytes)} usable of {gigabytes(f.memory_bytes)}"
    launched = f"{f.launches_per_step} launches" if card.platform == "cuda" else "all of them one program"
    together = f"; {config.population} trials as one program" if config.population > 1 else ""
    synthetic = f" and {f.synthetic_rows} synthetic ones" if f.synthetic_rows else ""
    work = ", ".join(f"{n / 1e9:,.1f} GFLOP in {dtype}" for dtype, n in f.flops_by_dtype.items() if n)
    lines = [
        f"\n{f.target}: {f.devices} x {f.card}; {config.data.name}, {config.method}, {config.model.name}",
        f"  {f.training_rows} training rows{synthetic}, {f.pseudo_classes} pseudo-classes, batch {f.batch_size}, "
        f"{f.steps} steps{together}",
        "",
        f"  memory{per_device}     peak {gigabytes(f.peak_memory_bytes)} of {of}: {'fits' if fits else 'TOO LARGE'}",
        f"             data and state {gigabytes(f.argument_bytes)}, temporary {gigabytes(f.temp_memory_bytes)}",
        f"  a step     {f.kernels_per_step} kernels, {launched}, {f.collectives} collectives, "
        f"{f.transposes} transposes, {f.host_transfers} host transfers",
        f"             {work}; {f.bytes_per_step / 1e9:,.2f} GB moved{per_device}",
        f"  bound      {1000 * f.bound_step_s:.2f} ms a step by {f.bound_by}: "
        f"{f.bound_examples_per_s:,.0f} examples/s, {duration(3600 * f.bound_hours)} in all",
        f"             at {card.bfloat16 / 1e12:.0f} TFLOP/s bfloat16, {card.float32 / 1e12:.0f} float32, "
        f"{card.bandwidth / 1e12:.3f} TB/s; published trainings of ResNets reach about a third of theirs",
    ]
    if "largest_batch" in found:
        lines.append(f"  fits       batches of up to {found['largest_batch']} (of {f.training_rows} rows)")
    lines += [f"  warning    {text}" for text in warnings(f)]
    return "\n".join(lines)


def warnings(f: Figures) -> list[str]:
    """What slows a step down, or keeps it from running."""
    found = {
        "the program needs more memory than JAX hands out": f.peak_memory_bytes > f.usable_memory_bytes,
        f"{f.f32_convolutions} convolutions in float32: half the speed or less": f.f32_convolutions,
        f"{gigabytes(f.copied_before_bytes)} of the arguments (the data set?) are copied into another layout and held "
        "twice": f.copied_before_bytes > 0.05 * f.memory_bytes,
        f"{f.host_transfers} transfers between host and device in every step": f.host_transfers,
    }
    return [text for text, holds in found.items() if holds]


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def cli() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main, __doc__ or "", interrupted="")


if __name__ == "__main__":
    cli()
