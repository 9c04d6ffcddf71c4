"""What the figures depend on: the card, the versions, and the speed of its memory and of its products."""

import os
import time

import jax
import jax.numpy as jnp

from tests.accelerator.figures import Figures
from tests.bench.machine import describe, version

PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax", "optax", "numpy", "torch")


def machine(figures: Figures) -> None:
    started = time.perf_counter()
    device = jax.devices()[0]
    figures.add(
        "device",
        kind=device.device_kind,
        platform=jax.default_backend(),
        count=jax.device_count(),
        cores=os.cpu_count(),
        start_s=time.perf_counter() - started,
        versions={name: number for name in PACKAGES if (number := version(name))},
        memory=(device.memory_stats() or {}).get("bytes_limit"),
        **{name: value for name, value in describe().items() if name in ("git", "changed", "python", "environment")},
    )
    _copy(figures)
    _product(figures)


def _copy(figures: Figures) -> None:
    size = 2**20 if figures.tiny else 2**31
    x = jnp.zeros(size // 4, jnp.uint32)
    seconds = _seconds(jax.jit(lambda x: x ^ jnp.uint32(1)), x, repeats=1 if figures.tiny else 10)
    figures.add("copy", terabytes_per_s=2 * size / seconds / 1e12)


def _product(figures: Figures) -> None:
    size = 256 if figures.tiny else 8192
    x = jnp.ones((size, size), jnp.bfloat16)
    seconds = _seconds(jax.jit(jnp.matmul), x, x, repeats=1 if figures.tiny else 10)
    figures.add("product_bfloat16", teraflops=2 * size**3 / seconds / 1e12)


def _seconds(function, *arguments, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    started = time.perf_counter()
    jax.block_until_ready([function(*arguments) for _ in range(repeats)])
    return (time.perf_counter() - started) / repeats
