"""Compile a training program for other hardware; report memory and predict speed.

    python -m rgjax.preflight --config=configs/FILE.py[:METHOD] [--config.NAME=VALUE ...] --target=a100[,h100,v5e-4]

Needs no accelerator, no data and no weights, only XLA's compiler: `uv sync --extra cuda13` (or cuda12) for NVIDIA's
cards, `uv sync --extra tpu` for Google's. --json prints JSON. --no-max-batch skips the search for the largest batch
that fits, which takes up to four more compilations. --no-price skips the compilation without `train.deterministic`,
which shows the price of the same bits on a GPU.
"""

import json
import logging as python_logging
import os
import time
from dataclasses import asdict
from typing import Any

import jax
from absl import flags, logging

from rgjax.command import read_config, run_with_config
from rgjax.config import Config
from rgjax.errors import UserError
from rgjax.preflight import targets
from rgjax.preflight.estimate import Estimate, TooLarge, estimate, largest_batch

_log = python_logging.getLogger("rgjax")  # __name__ is "__main__" in a command

_TARGET = flags.DEFINE_string("target", "", f"cards, by commas: {', '.join(targets.CARDS)}; CARD-4: four of them")
_JSON = flags.DEFINE_bool("json", False, "print JSON")
_MAX_BATCH = flags.DEFINE_bool("max_batch", True, "search for the largest batch that fits")
_PRICE = flags.DEFINE_bool("price", True, "compile again without train.deterministic, to print its price")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_platforms", "cpu")  # nothing runs here but the drawing of a few examples
    jax.config.update("jax_enable_compilation_cache", False)
    config = read_config()
    if not _TARGET.value:
        raise UserError(f"--target=CARD is missing; valid: {', '.join(targets.CARDS)}, or CARD-4 for four of them")
    reports = []
    for target, devices in [(target, target.devices()) for target in targets.find(_TARGET.value)]:
        report = examine(config, target, devices, search=_MAX_BATCH.value, price=_PRICE.value)
        reports.append(report)
        if not _JSON.value:
            print(readable(report, config))
    if _JSON.value:
        print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2, allow_nan=False))


def examine(config: Config, target: targets.Target, devices: list[Any], *, search: bool, price: bool) -> dict:
    """The estimate of the config's program on a target, as a dict.

    Args:
        config: of the run.
        target: the hardware.
        devices: that stand for it.
        search: whether to search for the `largest_batch` too.
        price: whether to compile without `train.deterministic` too.
    """

    def compile_batch(batch: int, price: bool = False) -> Estimate:
        changed = config.copy_and_resolve_references()
        changed.train.batch_size = batch
        _log.info(f"{target.name}: compiling for batches of {batch} ...")
        started = time.perf_counter()
        result = estimate(changed, target, devices, price=price)
        _log.info(f"{target.name}: {gigabytes(result.peak_memory_bytes)}, {time.perf_counter() - started:.0f} s")
        return result

    def peak_of(batch: int) -> int | None:
        try:
            return compile_batch(batch).peak_memory_bytes
        except TooLarge:
            return None

    batch = config.train.batch_size
    try:
        result = compile_batch(batch, price)
    except TooLarge as error:
        raise UserError(
            f"config.train.batch_size={batch}: needs more memory than {target.name} has ({error}); lower it"
        ) from error
    return asdict(result) | ({"largest_batch": largest_batch(result, peak_of)} if search else {})


def readable(report: dict, config: Config) -> str:
    """An estimate as text."""
    e = Estimate(**{name: value for name, value in report.items() if name != "largest_batch"})
    card = targets.find(e.target)[0].card
    per_device = " a device" if e.devices > 1 else ""
    fits = "fits" if e.peak_memory_bytes <= e.usable_memory_bytes else "TOO LARGE"
    usable = f"{gigabytes(e.usable_memory_bytes)} usable of {gigabytes(e.memory_bytes)}"
    launches = f"{e.launches_per_step} launches" if card.platform == "cuda" else "all of them one program"
    population = f"; {config.population} trials as one program" if config.population > 1 else ""
    synthetic = f" and {e.synthetic_rows} synthetic ones" if e.synthetic_rows else ""
    cached = f", {gigabytes(e.cached_bytes_per_step)} of it in arrays that the L2 can hold" if card.cache else ""
    work = ", ".join(f"{n / 1e9:,.1f} GFLOP in {dtype}" for dtype, n in e.flops_by_dtype.items() if n)
    lines = [
        f"\n{e.target}: {e.devices} x {e.card}; {config.data.name}, {config.method}, {config.model.name}",
        f"  {e.training_rows} training examples{synthetic}, {e.pseudo_classes} pseudo-classes, batch {e.batch_size}, "
        f"{e.steps} steps{population}",
        "",
        f"  memory{per_device}     peak {gigabytes(e.peak_memory_bytes)} of {usable}: {fits}",
        f"             data and state {gigabytes(e.argument_bytes)}, temporary {gigabytes(e.temp_memory_bytes)}",
        f"  a step     {e.kernels_per_step} kernels, {launches}, {e.collectives} collectives, "
        f"{e.transposes} transposes, {e.host_transfers} host transfers",
        f"             {work}; {e.bytes_per_step / 1e9:,.2f} GB moved{per_device}{cached}",
    ]
    if e.all_reduces:
        lines.append(f"             {e.all_reduces} all-reduces of {gigabytes(e.all_reduced_bytes)} in all")
    if e.plain_kernels is not None and e.plain_bytes is not None:
        lines.append(
            f"             train.deterministic={config.train.deterministic} costs "
            f"{e.kernels_per_step - e.plain_kernels:+,} kernels and {(e.bytes_per_step - e.plain_bytes) / 1e9:+,.2f} GB"
        )
    lines += [
        f"  bound      {rate(e.bound_step_s, e.bound_examples_per_s, e.bound_hours)}",
        f"             at {card.bfloat16 / 1e12:.0f} TFLOP/s bfloat16, {card.float32 / 1e12:.0f} float32, "
        f"{card.bandwidth / 1e12:.3f} TB/s: products after element-wise work"
        f"{', what the L2 can hold for nothing' if card.cache else ''}",
        f"  predicted  {rate(e.predicted_step_s, e.predicted_examples_per_s, e.predicted_hours)}",
        f"             {assumptions(card)}",
    ]
    if "largest_batch" in report:
        lines.append(f"  fits       batches of up to {report['largest_batch']} (of {e.training_rows} examples)")
    lines += [f"  warning    {text}" for text in warnings(e, card)]
    return "\n".join(lines)


def rate(step_s: float, examples_per_s: float, hours: float) -> str:
    return f"{1000 * step_s:.2f} ms a step: {examples_per_s:,.0f} examples/s, {duration(3600 * hours)} in total"


def assumptions(card: targets.Card) -> str:
    """What a prediction assumes, as text."""
    pace = card.pace
    cache = ", nothing from the L2" if card.cache else ""
    return (
        f"assumed, not measured: {100 * pace.bandwidth:.0f} % of the bandwidth, {100 * pace.arithmetic:.0f} % of the "
        f"arithmetic, {1e6 * pace.kernel_s:.0f} µs a kernel, {1e6 * pace.all_reduce_s:.0f} µs an all-reduce; "
        f"nothing overlaps{cache}"
    )


def warnings(e: Estimate, card: targets.Card) -> list[str]:
    """What slows a step down, or keeps the program from running."""
    checks = {
        "the program needs more memory than JAX allocates": e.peak_memory_bytes > e.usable_memory_bytes,
        f"{e.f32_convolutions} convolutions in float32: half the speed or less": e.f32_convolutions,
        f"{gigabytes(e.copied_before_bytes)} of the arguments (the data set?) are copied into another layout and held "
        "twice": e.copied_before_bytes > 0.05 * e.memory_bytes,
        f"{e.atomics} atomic instructions: sums in an order that varies from run to run": e.atomics,
        f"{e.host_transfers} transfers between host and device in every step": e.host_transfers,
    }
    return [text for text, holds in checks.items() if holds]


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def cli() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run_with_config(main, __doc__)


if __name__ == "__main__":
    cli()
